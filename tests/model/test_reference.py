"""The reference model itself, on the cases where the protocols differ."""

from model.reference import Tree


def tree(*files: str) -> Tree:
    made = Tree()
    for path in files:
        made.write(path, path.encode())
    return made


def test_children_are_sorted_and_mark_directories():
    made = tree("b", "a/x", "a/y/z")
    assert made.children("") == ["a/", "b"]
    assert made.children("a") == ["x", "y/"]


def test_move_carries_everything_below():
    made = tree("a/x", "a/y/z")
    made.move("a", "b")
    assert made.files == {"b/x": b"a/x", "b/y/z": b"a/y/z"}
    assert made.directories == {"", "b", "b/y"}


def test_hadoop_rename_moves_into_directories_and_never_replaces():
    made = tree("f", "d/x", "d/f2")
    assert made.hadoop_rename_target("f", "d") == "d/f"
    assert made.hadoop_rename_target("f", "d/x") is None
    assert made.hadoop_rename_target("d", "d/e") is None
    assert made.hadoop_rename_target("f", "no/f") is None
    assert made.hadoop_rename_target("f", "f") == "f"


def test_posix_rename_replaces_files_and_empty_directories_only():
    made = tree("f", "g", "d/x")
    made.make_directories("e")
    assert made.posix_may_rename("f", "g")
    assert made.posix_may_rename("d", "e")
    assert not made.posix_may_rename("e", "d")
    assert not made.posix_may_rename("f", "d")
    assert not made.posix_may_rename("d", "f")
    assert not made.posix_may_rename("d", "d/x/y")
