"""What the namespace should hold: files and directories of one mount in memory, with each protocol's rules."""

from pathlib import PurePosixPath


class Tree:
    """Paths are relative to the tested directory, `` is that directory itself. Every parent of a file is in `directories`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.directories: set[str] = {""}

    def copy(self) -> "Tree":
        twin = Tree()
        twin.files, twin.directories = dict(self.files), set(self.directories)
        return twin

    @staticmethod
    def parent(path: str) -> str:
        above = str(PurePosixPath(path).parent)
        return "" if above == "." else above

    @staticmethod
    def ancestors(path: str) -> list[str]:
        """All directories above `path`, deepest first, `` last."""
        found = []
        while path:
            path = Tree.parent(path)
            found.append(path)
        return found

    def is_file(self, path: str) -> bool:
        return path in self.files

    def is_directory(self, path: str) -> bool:
        return path in self.directories

    def exists(self, path: str) -> bool:
        return self.is_file(path) or self.is_directory(path)

    def is_under_a_file(self, path: str) -> bool:
        return any(self.is_file(above) for above in self.ancestors(path))

    def below(self, path: str) -> list[str]:
        prefix = f"{path}/" if path else ""
        return [name for name in (*self.files, *self.directories) if name.startswith(prefix) and name != path and name]

    def children(self, path: str) -> list[str]:
        """Names directly in a directory, directories with a trailing slash, in byte order of the plain name."""
        names = {name for name in self.below(path) if self.parent(name) == path}
        plain = sorted((PurePosixPath(name).name, name in self.directories) for name in names)
        return [name + ("/" if is_directory else "") for name, is_directory in plain]

    def write(self, path: str, data: bytes) -> None:
        self.make_directories(self.parent(path))
        self.files[path] = data

    def make_directories(self, path: str) -> None:
        self.directories |= {path, *self.ancestors(path)}

    def remove(self, path: str) -> None:
        for name in [path, *self.below(path)]:
            self.files.pop(name, None)
            self.directories.discard(name)

    def move(self, source: str, destination: str) -> None:
        """Moves a file or a directory with all below it; what was at the destination is replaced."""
        moved = [source, *self.below(source)]
        files = {name: self.files.pop(name) for name in moved if name in self.files}
        directories = {name for name in moved if name in self.directories}
        self.directories -= directories
        self.remove(destination)
        self.files |= {destination + name[len(source) :]: data for name, data in files.items()}
        self.directories |= {destination + name[len(source) :] for name in directories}

    def hadoop_rename_target(self, source: str, destination: str) -> str | None:
        """Where Hadoop's plain RENAME moves `source`, or None where it answers false."""
        if not self.exists(source) or not source:
            return None
        if source == destination:
            return source if self.is_file(source) else None
        if self.is_directory(destination):
            destination = f"{destination}/{PurePosixPath(source).name}".lstrip("/")
        if self.exists(destination) or not self.is_directory(self.parent(destination)):
            return None
        if self.is_directory(source) and f"{destination}/".startswith(f"{source}/"):
            return None
        return destination

    def posix_may_rename(self, source: str, destination: str) -> bool:
        if not self.exists(source) or not self.is_directory(self.parent(destination)):
            return False
        if source == destination:
            return True
        if self.is_directory(source):
            if f"{destination}/".startswith(f"{source}/") or self.is_file(destination):
                return False
            return not self.is_directory(destination) or not self.below(destination)
        return not self.is_directory(destination)
