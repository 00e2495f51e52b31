import pytest

from tiny.exports import write_export


@pytest.fixture(scope="session")
def make_export():
    """make_export(directory, **changed settings) -> directory."""
    return write_export


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("model") / "export")
