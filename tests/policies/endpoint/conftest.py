"""What the tests of endpoints share: a server, and a directory without settings of the machine."""

import pytest

from endpoint_server import EndpointServer


@pytest.fixture
def server():
    with EndpointServer() as running:
        yield running


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An empty current directory and an empty home."""
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))
    return tmp_path
