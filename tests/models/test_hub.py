"""A hub that does not answer costs seconds, through whatever proxy, and then the local copy is taken."""

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import close_session

from commands import refused, spiral
from spiral.models import hub
from spiral.models.loading import NANO_DIRECTORY

PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")
COMMIT = "0" * 40
FAST = 0.2


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No proxy of this machine's, and nothing known of the hub."""
    for key in (*PROXIES, "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(key, raising=False)
    forget()
    yield
    forget()


def forget():
    """As in a new process."""
    hub.hub_fault.cache_clear()
    close_session()  # it goes by the proxy that there was when it began


@contextlib.contextmanager
def server(answer):
    """A TCP server on the loopback interface that treats every connection as `answer` does; its port."""
    stop, handlers = threading.Event(), []

    def handle(connection):
        with connection, contextlib.suppress(OSError):
            answer(connection, stop)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                handlers.append(threading.Thread(target=handle, args=(connection,)))
                handlers[-1].start()

    listening = socket.create_server(("127.0.0.1", 0))
    accepting = threading.Thread(target=serve)
    accepting.start()
    try:
        yield listening.getsockname()[1]
    finally:
        stop.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for thread in (accepting, *handlers):
            thread.join()


@contextlib.contextmanager
def blackhole(_):
    """A port on which connections are neither accepted nor refused: the queue before it is full."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


def silent(connection, stop):
    stop.wait()


def dripping(connection, stop):
    """A byte now and then, for ever, so that no wait for a packet is long."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while not stop.wait(0.05):
        connection.sendall(b"x")


def replying(status, headers=""):
    def reply(connection, stop):
        connection.recv(65536)
        connection.sendall(f"HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        connection.close()

    return reply


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        name = listening.getsockname()
    return name[1]


def fault_within(seconds):
    start = time.monotonic()
    fault = hub.hub_fault()
    assert time.monotonic() - start < seconds
    return fault


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HF_ENDPOINT"])
@pytest.mark.parametrize(("listener", "answer"), [(server, silent), (server, dripping), (blackhole, None)])
def test_an_unresponsive_server_costs_seconds(monkeypatch, variable, listener, answer):
    monkeypatch.setattr(hub, "TIMEOUT_SECONDS", FAST)
    with listener(answer) as port:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        assert fault_within(FAST + 1.5)
        assert not hub.hub_answers()


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy", "HF_ENDPOINT"])
def test_a_closed_port_costs_nothing(monkeypatch, variable, closed_port):
    monkeypatch.setenv(variable, f"http://127.0.0.1:{closed_port}")
    assert "refused" in fault_within(3)


@pytest.mark.parametrize(
    ("status", "answers"),
    [("200 OK", True), ("302 Found", True), ("404 Not Found", True), ("502 Bad Gateway", False), ("504 Slow", False)],
)
def test_what_counts_as_an_answer(monkeypatch, status, answers):
    with server(replying(status)) as port:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        assert hub.hub_answers() == answers


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway"])
def test_a_proxy_that_refuses(monkeypatch, status):
    with server(replying(status)) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{port}")
        assert fault_within(3)
        with pytest.raises(hub.NotHereError, match=rf"through the proxy 127\.0\.0\.1:{port}\)") as refusal:
            hub.hub_model("org/model")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "address", ["not a url", "http://", "ftp://x", "http://127.0.0.1:99999", "socks5://127.0.0.1:1"]
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "HF_ENDPOINT"])
def test_addresses_that_are_none(monkeypatch, variable, address):
    monkeypatch.setattr(hub, "TIMEOUT_SECONDS", FAST)
    monkeypatch.setenv(variable, address)
    assert fault_within(FAST + 2)


def test_offline_mode_sends_no_requests(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "_asked", lambda: pytest.fail("asked"))
    assert hub.hub_fault() == "HF_HUB_OFFLINE is set"


def in_cache(root, name):
    """A copy of the built-in model in a Hugging Face cache."""
    repo = root / "hub" / f"models--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    shutil.copytree(NANO_DIRECTORY, repo / "snapshots" / COMMIT)


COMMANDS = {
    "evaluate": ["evaluate", "org/nano", "--game", "kuhn_poker", "--opponent", "random", "--episodes", "2"],
    "train": ["train", "nano", "--model", "org/nano", "--dry-run"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_cached_model_is_used_behind_a_proxy_that_never_answers(tmp_path, command):
    """The whole command in a process of its own, as a user meets it."""
    in_cache(tmp_path, "org/nano")
    with server(silent) as port:
        environment = {
            "HTTPS_PROXY": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin",
            "SPIRAL_RESULTS": str(tmp_path / "results"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path),
            "PYTHONPATH": str(Path(hub.__file__).parents[2]),
        }  # fmt: skip
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "spiral", *COMMANDS[command]],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 60


def test_what_libraries_ask_is_kept_from_a_hub_that_does_not_answer(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    before = constants.HF_HUB_OFFLINE
    with hub.offline_unless_answered():
        assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is before
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    with hub.offline_unless_answered():
        assert constants.HF_HUB_OFFLINE is before


@pytest.fixture
def away(monkeypatch, tmp_path):
    """No hub and no local copy of anything."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(hub, "cached_copy", lambda name: None)
    return tmp_path


def test_a_model_that_is_not_here_says_how_to_bring_it(away):
    words = ["hf download org/model", str(away / "home" / "models" / "model"), "spiral models", "HF_HUB_OFFLINE is set"]
    result = spiral("train", "nano", "--model", "org/model", "--dry-run")
    assert result.status == 0
    assert result.out.startswith("# org/model: parameters unknown: there is no path 'org/model' here")
    comment = result.out.splitlines()[0]
    for said in (comment, refused("train", "nano", "--model", "org/model", "--run-dir", str(away / "run"))):
        assert all(word in said for word in words)
        assert "minimax" not in said
    said = refused("evaluate", "org/model", "--game", "tictactoe", "--opponent", "random")
    assert "hf download org/model" in said
    assert "minimax" in said


def test_a_model_that_cannot_be_fetched_says_why(monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("401 Client Error.\nAccess to model org/gated is restricted")

    monkeypatch.setattr("huggingface_hub.snapshot_download", failing)
    with pytest.raises(hub.NotHereError, match=r"cannot fetch model 'org/gated' .* 401 Client Error\. Access to"):
        hub.local_copy("org/gated")
