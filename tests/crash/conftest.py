"""How often the gateway is killed."""


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=20, help="kills, over all kinds of stores and write modes together")
