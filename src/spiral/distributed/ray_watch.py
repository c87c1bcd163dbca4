"""Explains why a process has ended when Ray has ended it, which Ray does from its own threads and without a message.

`watched` starts this file as a separate program, the watcher, which needs only the standard library. The watcher
observes Ray's processes and the process that started it. When that process ends without notice and one of Ray's
processes is dead, the watcher prints one line on the standard error that both share. If Ray's death does not end the
watched process within `GRACE_SECONDS` (after the loss of the GCS it takes a minute), the watcher makes it exit with
status 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

AGENTS = {
    b"ray::RuntimeEnvAgent": "runtime environment agent",
    b"runtime_env/agent": "runtime environment agent",
    b"ray::DashboardAgent": "dashboard agent",
    b"dashboard/agent": "dashboard agent",
}
"""Parts of the command lines of Ray's agents, early and late: Ray replaces them after a while."""
POLL_SECONDS = 0.1
GRACE_SECONDS = 3.0
GOODBYE = b"g"
EXIT = b"e"


@contextlib.contextmanager
def watched(processes: Mapping[int, str], advice: str) -> Iterator[None]:
    """Runs a watcher for the duration of the block.

    Args:
        processes: Names of Ray's processes by id; empty for a Ray that was joined, where the line can only say that
            this process has ended. The agents that they start are watched too.
        advice: Ends the line that is printed.
    """
    ours, theirs = socket.socketpair()
    settings = json.dumps({"processes": {str(pid): name for pid, name in processes.items()}, "advice": advice})
    command = [sys.executable, "-I", "-S", str(Path(__file__)), str(theirs.fileno()), settings]
    with theirs:
        watcher = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def exit_when_asked() -> None:
        with contextlib.suppress(OSError):
            if ours.recv(1) == EXIT:
                os._exit(1)

    threading.Thread(target=exit_when_asked, name="ray watch", daemon=True).start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            ours.send(GOODBYE)
        with contextlib.suppress(subprocess.TimeoutExpired):
            watcher.wait(GRACE_SECONDS)
        ours.close()


def watch(channel: socket.socket, processes: dict[int, str], advice: str) -> None:
    """The watcher's loop; returns when the watched process has said goodbye or has ended."""
    dead: list[str] = []
    died: float | None = None
    while True:
        ready, _, _ = select.select([channel], [], [], POLL_SECONDS)
        message = _receive(channel) if ready else None
        if message == GOODBYE:
            return
        ended = [pid for pid in processes if not _runs(pid)]
        dead += [processes.pop(pid) for pid in ended]
        if message is not None:  # the watched process has ended
            _explain(dead, bool(processes or dead), advice)
            return
        for pid, name in list(processes.items()):
            if name == "raylet":
                processes.update(_agents(pid))
        if dead:
            died = died or time.monotonic()
            if time.monotonic() - died > GRACE_SECONDS:
                with contextlib.suppress(OSError):
                    channel.send(EXIT)


def _receive(channel: socket.socket) -> bytes:
    """The next byte from the watched process; empty when that has ended."""
    try:
        return channel.recv(1)
    except OSError:
        return b""


def _explain(dead: list[str], own: bool, advice: str) -> None:
    """Prints the line, unless the process has ended for another reason; `own` is whether its Ray was private."""
    if dead:
        what = f"Ray has ended: its {' and its '.join(dict.fromkeys(dead))} died, and the run with it"
    elif not own:
        what = "this process was killed, or ended by the Ray that it had joined"
    else:
        return
    with contextlib.suppress(OSError):
        print(f"spiral: {what}; {advice}", file=sys.stderr, flush=True)


def _runs(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return False
        with contextlib.suppress(PermissionError):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return False
        return True
    except (OSError, IndexError):
        return False


def _agents(raylet: int) -> dict[int, str]:
    """The agents that a raylet has started; it ends when one of them does.

    A raylet has the command lines of its agents among its options, and so has each of its workers until it has become
    another program, which takes long on a busy machine. Only what comes before the options counts.
    """
    found: dict[int, str] = {}
    with contextlib.suppress(OSError, ValueError):
        for child in Path(f"/proc/{raylet}/task/{raylet}/children").read_text(encoding="ascii").split():
            line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").partition(b" --")[0]
            found |= {int(child): name for mark, name in AGENTS.items() if mark in line}
    return found


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    given = json.loads(sys.argv[2])
    with socket.socket(fileno=int(sys.argv[1])) as end:
        watch(end, {int(pid): name for pid, name in given["processes"].items()}, given["advice"])
