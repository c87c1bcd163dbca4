"""Locks between real processes: who holds one, when it is free again, and what a process does that has lost it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import types

import pytest

from lock_holder import held_elsewhere
from spiral.core import locks
from spiral.core.locks import HeldError, LockLostError, acquire, locked


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    with held_elsewhere(tmp_path / "lock") as process:
        yield process


@pytest.fixture
def impatient(monkeypatch):
    """Waits that are shorter."""
    monkeypatch.setattr(locks, "SILENT_SECONDS", 0.6)
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.05)


@pytest.fixture
def no_flock(monkeypatch):
    """A disk that knows no locks."""

    def flock(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)


def refused_by(path):
    """Who holds the lock."""
    with pytest.raises(HeldError) as caught, locked(path):
        pass
    return caught.value.strerror


def write_owner(path, **changed):
    """An owner file, as another process has written it."""
    values = {
        "beat": "000000000007", "token": "feedfeedfeedfeed", "host": "elsewhere", "machine": "another", "pid": 1,
        "started": "5", "since": "2026-11-29 12:00:00+00:00",
    }  # fmt: skip
    path.with_name(path.name + ".owner").write_text(json.dumps(values | changed))


def test_a_lock_that_another_process_holds(tmp_path, holder):
    assert refused_by(tmp_path / "lock").startswith(f"process {holder.pid} on ")
    holder.stdin.close()
    assert holder.wait(10) == 0
    with locked(tmp_path / "lock"):
        assert refused_by(tmp_path / "lock").startswith(f"process {os.getpid()} on ")


def test_a_lock_dies_with_its_process(tmp_path, holder):
    assert str(holder.pid) in refused_by(tmp_path / "lock")
    holder.kill()  # and what is left of it is not even waited for
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            with locked(tmp_path / "lock") as lock:
                assert lock.owner.pid == os.getpid()
                return
        except HeldError:
            time.sleep(0.05)
    raise AssertionError("the lock of a dead process is held")


def test_a_suspended_process_holds_its_lock(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    assert str(holder.pid) in refused_by(tmp_path / "lock")
    holder.send_signal(signal.SIGCONT)


def test_a_suspended_process_holds_it_without_flock_too(tmp_path, holder, no_flock, impatient):
    holder.send_signal(signal.SIGSTOP)
    assert str(holder.pid) in refused_by(tmp_path / "lock")
    holder.send_signal(signal.SIGCONT)


def test_a_dead_process_holds_nothing_without_flock_either(tmp_path, holder, no_flock, impatient):
    holder.kill()
    holder.wait(10)
    with locked(tmp_path / "lock") as lock:
        lock.check()
        assert lock.owner.pid == os.getpid()


def test_a_reused_process_id_is_no_holder(tmp_path, no_flock, impatient):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        write_owner(tmp_path / "lock", machine=locks._machine(), pid=other.pid, started="1")
        with locked(tmp_path / "lock"):
            pass
        write_owner(tmp_path / "lock", machine=locks._machine(), pid=other.pid, started=locks.process_start(other.pid))
        assert refused_by(tmp_path / "lock") == f"process {other.pid} on elsewhere"
        other.kill()


def test_a_lock_ends_with_its_block_whatever_comes(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "lock"):
        raise KeyError
    assert (tmp_path / "lock").read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    with locked(tmp_path / "lock"), locked(tmp_path / "another"):
        assert (tmp_path / "another.owner").exists()


def test_a_platform_without_flock(tmp_path, monkeypatch, impatient):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with locked(tmp_path / "lock"):
        assert refused_by(tmp_path / "lock").startswith(f"process {os.getpid()} on ")


def time_with(sleep):
    """The module `time` with another `sleep`, for the lock alone: other threads of the tests sleep too."""
    return types.SimpleNamespace(sleep=sleep, time=time.time, monotonic=time.monotonic)


def test_an_owner_on_another_machine_that_still_beats(tmp_path, impatient, monkeypatch):
    monkeypatch.setattr(locks, "SILENT_SECONDS", 30)
    write_owner(tmp_path / "lock")
    looks = iter(range(100))

    def sleep(_seconds):
        if next(looks) == 3:
            write_owner(tmp_path / "lock", beat="000000000008")

    monkeypatch.setattr(locks, "time", time_with(sleep))
    assert refused_by(tmp_path / "lock") == "process 1 on elsewhere"


def test_an_owner_on_another_machine_that_has_fallen_silent(tmp_path, impatient):
    write_owner(tmp_path / "lock")
    begun = time.monotonic()
    with locked(tmp_path / "lock") as lock:
        assert lock.owner.pid == os.getpid()
    assert time.monotonic() - begun > 0.5, "it was given the time"


def test_one_that_has_been_silent_for_long_is_not_waited_for(tmp_path):
    write_owner(tmp_path / "lock")
    hour_ago = time.time() - 3600
    os.utime(tmp_path / "lock.owner", (hour_ago, hour_ago))
    begun = time.monotonic()
    with locked(tmp_path / "lock"):
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize("ahead", [3600, 10 * 365 * 86400])
def test_a_beat_in_the_future_is_watched(ahead, tmp_path, impatient):
    """The clocks of two machines differ; the wait is by our own."""
    write_owner(tmp_path / "lock")
    os.utime(tmp_path / "lock.owner", (time.time() + ahead,) * 2)
    with locked(tmp_path / "lock") as lock:
        assert lock.owner.pid == os.getpid()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"beat": 1}', b'{"beat": "1", "pid": "x"}']
)
def test_an_owner_file_that_makes_no_sense(damage, tmp_path):
    (tmp_path / "lock.owner").write_bytes(damage)
    with locked(tmp_path / "lock") as lock:
        lock.check()
        assert lock.owner.pid == os.getpid()


def test_the_former_owner_notices_a_takeover(tmp_path):
    lock = acquire(tmp_path / "lock")
    lock.check()
    write_owner(tmp_path / "lock")
    with pytest.raises(LockLostError, match=r"process 1 on elsewhere has held it since 2026-11-29 12:00:00"):
        lock.check()
    (tmp_path / "lock.owner").unlink()  # and the other one may have ended since
    with pytest.raises(LockLostError, match=r"lock\.owner is gone"):
        lock.check()
    write_owner(tmp_path / "lock")
    lock.release()
    assert (tmp_path / "lock.owner").exists(), "it is the other one's"


def test_the_beat_goes_on_and_never_hides_a_new_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    owner = tmp_path / "lock.owner"
    with locked(tmp_path / "lock") as lock:
        first = json.loads(owner.read_bytes())
        time.sleep(0.3)
        later = json.loads(owner.read_bytes())
        assert int(later.pop("beat")) > int(first.pop("beat"))
        assert first == later
        lock.check()
        write_owner(tmp_path / "lock")
        taken = json.loads(owner.read_bytes())
        time.sleep(0.3)  # a beat may be on its way still: it leaves the rest of the record alone
        content = owner.read_bytes()
        time.sleep(0.2)
        assert owner.read_bytes() == content
        assert json.loads(content) | {"beat": taken["beat"]} == taken


def test_the_last_to_write_its_name_has_it_where_flock_is_not_shared(tmp_path, no_flock, impatient, monkeypatch):
    monkeypatch.setattr(locks, "time", time_with(lambda _: write_owner(tmp_path / "lock")))
    assert refused_by(tmp_path / "lock") == "process 1 on elsewhere"


def test_held_again_by_the_same_process(tmp_path):
    lock = acquire(tmp_path / "lock")
    assert acquire(tmp_path / "lock", again=True) is lock
    lock.release()
    assert refused_by(tmp_path / "lock").startswith(f"process {os.getpid()}")
    lock.release()
    with locked(tmp_path / "lock"):
        pass


def test_a_forked_child_neither_holds_nor_frees_it(tmp_path):
    with locked(tmp_path / "lock") as lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if not locks._held else 1)
        assert os.waitpid(child, 0)[1] == 0
        lock.check()
        code = "import sys, pathlib; from spiral.core.locks import locked\nwith locked(pathlib.Path(sys.argv[1])): pass"
        command = [sys.executable, "-c", code, str(tmp_path / "lock")]
        other = subprocess.run(command, check=False, stderr=subprocess.PIPE)
        assert b"HeldError" in other.stderr


def test_a_lock_file_that_is_removed_is_made_again(tmp_path):
    """What a person does who knows that the holder is gone."""
    lock = acquire(tmp_path / "lock")
    (tmp_path / "lock").unlink()
    (tmp_path / "lock.owner").unlink()
    locks._held.clear()  # as in another process
    with locked(tmp_path / "lock"):
        with pytest.raises(LockLostError):
            lock.check()
        lock.release()
