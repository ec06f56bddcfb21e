"""Options of the conformance runs."""


def pytest_addoption(parser):
    parser.addoption("--write-matrix", action="store_true", help="write what was measured into README.md instead of comparing")
    parser.addoption("--large", action="store_true", help="store an object of more than 5 GiB, too")
