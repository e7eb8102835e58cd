"""Exclusive locks: real processes that hold, release, die; hosts; file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dit_lab.core.errors import RequestError
from dit_lab.runs import lock as lease_module
from dit_lab.runs.lock import Busy, Holder, Lease, Watch, holder_of, read_holder

HOST = socket.gethostname()

# Holds the lease until its input ends; then says that it is stopping, for so many seconds.
HOLD = """
import sys, time
from pathlib import Path
from dit_lab.runs.lock import Lease

path, seconds = Path(sys.argv[1]), float(sys.argv[2])
left = False
with Lease(path, stopping=lambda: left):
    print("held", flush=True)
    sys.stdin.read()
    left = True
    time.sleep(seconds)
"""

# Takes the lease as a loader's parent would: a child process keeps it open for a while longer.
HOLD_WITH_A_CHILD = """
import os, sys, time
from pathlib import Path
from dit_lab.runs.lock import Lease

with Lease(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(float(sys.argv[2]))
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""

Process = subprocess.Popen[str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lease"


@contextmanager
def held_by_another_process(
    path: Path, seconds: float = 0, script: str = HOLD
) -> Iterator[Process]:
    command = [sys.executable, "-c", script, str(path), str(seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def says(path: Path, what: Callable[[Holder], bool]) -> bool:
    """Whether the lease says so; it says nothing for a moment while it is written."""
    holder = read_holder(path)
    return holder is not None and what(holder)


def assert_free(path: Path) -> None:
    with Lease(path):
        holder = read_holder(path)
        assert holder is not None
        assert (holder.host, holder.pid, holder.stopping) == (HOST, os.getpid(), False)


# ---- on one machine -----------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_told_who_the_first_is(path: Path) -> None:
    with held_by_another_process(path) as holder:
        named = f"process {holder.pid} on {HOST} has been writing here since"
        for _ in range(2):  # being refused takes nothing away from the holder
            with pytest.raises(Busy, match=named) as refused, Lease(path):
                pass
        assert str(refused.value).startswith(f"{path.parent}: ")
        assert str(refused.value).endswith("; wait for it or stop it")
        assert named in holder_of(path)
        holder.communicate("")
        assert_free(path)


def test_the_lease_of_a_killed_process_is_free(path: Path) -> None:
    with held_by_another_process(path) as holder:
        holder.kill()
        holder.wait()
        assert read_holder(path).pid == holder.pid  # it had no time to say goodbye
        assert holder_of(path) == ""
        assert_free(path)


def test_a_released_lease_names_nobody(path: Path) -> None:
    assert holder_of(path) == ""
    assert not path.exists()  # looking changes nothing
    with Lease(path):
        assert f"process {os.getpid()} on {HOST}" in holder_of(path)
    assert path.read_bytes() == b""
    assert read_holder(path) is None
    assert holder_of(path) == ""


def test_a_lease_can_be_taken_again_and_not_twice(path: Path) -> None:
    lease = Lease(path)
    with lease, pytest.raises(RequestError, match="writing here"), Lease(path):
        pass
    with pytest.raises(ValueError, match="gone wrong"), Lease(path):
        raise ValueError("gone wrong")
    assert_free(path)


def test_a_holder_that_is_leaving_is_waited_for(path: Path) -> None:
    """A job that was put back into the queue starts while its predecessor still saves."""
    waits: list[str] = []
    with held_by_another_process(path, seconds=2) as holder:
        holder.stdin.close()  # told to stop
        until(lambda: says(path, lambda now: now.stopping))
        with Lease(path, on_wait=waits.append):
            assert holder.wait(10) == 0
            assert read_holder(path).pid == os.getpid()
    assert waits == [f"waiting for process {holder.pid}, which is leaving this run"]


def test_waiting_for_a_holder_that_does_not_leave_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HANDOVER_SECONDS", 0.5)
    with held_by_another_process(path, seconds=60) as holder:
        holder.stdin.close()
        until(lambda: says(path, lambda now: now.stopping))
        with pytest.raises(RequestError, match=f"process {holder.pid} on {HOST}"), Lease(path):
            pass
        assert holder.poll() is None


def test_the_children_of_a_killed_process_are_waited_for(path: Path) -> None:
    """Loader processes hold the lock of their parent, and notice its death some seconds later."""
    waits: list[str] = []
    with held_by_another_process(path, seconds=2, script=HOLD_WITH_A_CHILD) as holder:
        holder.kill()
        holder.wait()
        with Lease(path, on_wait=waits.append):
            pass
    assert waits == [f"waiting for process {holder.pid}, which is leaving this run"]


def test_the_lease_of_nobody_that_is_locked_is_refused(path: Path) -> None:
    """The holder has not said yet who it is."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="another process is writing here"), Lease(path):
            pass


def test_who_only_looks_refuses_nobody(path: Path) -> None:
    """However often others ask who writes there."""
    path.touch()
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        released = threading.Timer(0.3, fcntl.flock, [file, fcntl.LOCK_UN])
        released.start()
        with Lease(path):
            assert Watch(path).is_held()
        released.join()


def test_damaged_words_are_no_holder(path: Path) -> None:
    for text in ("", "{", "[]", "3", '{"pid": 3}', '{"nobody": 1}', "\x00\x00"):
        path.write_text(text)
        assert read_holder(path) is None
        assert_free(path)


# ---- the heartbeat ------------------------------------------------------------------------------


def test_the_heartbeat_says_that_the_holder_lives(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.1)
    began = time.time()
    with Lease(path):
        first = read_holder(path)
        assert began <= first.started <= first.heartbeat <= time.time()
        heard: set[float] = set()
        until(lambda: says(path, lambda now: heard.add(now.heartbeat) or len(heard) == 3))
        until(lambda: says(path, lambda now: now.started == first.started))


def test_that_it_was_told_to_stop_is_said_at_once(path: Path) -> None:
    stopping = False
    with Lease(path, stopping=lambda: stopping):
        assert not read_holder(path).stopping
        stopping = True
        began = time.monotonic()
        until(lambda: says(path, lambda now: now.stopping))
        assert time.monotonic() - began < lease_module.HEARTBEAT_SECONDS / 2


# Takes a lease on a file that the system does not let grow, as a full disk would not.
WITHOUT_ROOM = """
import resource, sys, time
from pathlib import Path
from dit_lab.runs import lock as lease

lease.HEARTBEAT_SECONDS = 0.1
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
with lease.Lease(Path(sys.argv[1])):
    sys.stderr.write(lease.holder_of(Path(sys.argv[1])))
    time.sleep(1)
"""


def test_a_full_disk_takes_no_lease_away(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROOM, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stderr == "another process is writing here"
    assert path.read_bytes() == b""


# ---- other hosts, and file systems without locks ------------------------------------------------

Write = Callable[..., Holder]


@pytest.fixture
def write(path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the lease of somebody who shares no locks with us. Heartbeats come in 0.1 s."""
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.1)

    def say(
        *, host: str = "elsewhere", pid: int = 4242, silent: float = 0.0, stopping: bool = False
    ) -> Holder:
        now = time.time() - silent
        words = {"host": host, "pid": pid, "started": now, "heartbeat": now, "stopping": stopping}
        beside = path.with_name("beside")
        beside.write_text(json.dumps(words))
        os.replace(beside, path)
        return Holder(**words)

    return say


def test_a_holder_on_another_host_is_refused_while_it_is_heard_of(path: Path, write: Write) -> None:
    write(silent=30)
    with pytest.raises(RequestError) as refused, Lease(path):
        pass
    assert "process 4242 on elsewhere has been writing here since" in str(refused.value)
    assert "(last heartbeat 30 s ago)" in str(refused.value)
    assert "4242 on elsewhere" in holder_of(path)
    assert read_holder(path).host == "elsewhere"


@pytest.mark.parametrize("silent", [3600.0, -3600.0], ids=["old", "clock ahead"])
def test_a_holder_on_another_host_that_is_silent_is_dead(
    path: Path, write: Write, silent: float
) -> None:
    write(silent=silent)
    assert holder_of(path) == ""
    assert_free(path)


@pytest.mark.parametrize("silent", [3600.0, -3600.0], ids=["clock behind", "clock ahead"])
def test_a_heartbeat_counts_whatever_the_clock_says(
    path: Path, write: Write, silent: float
) -> None:
    write(silent=silent)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(0.05):
            write(silent=silent)

    other = threading.Thread(target=beat)
    other.start()
    try:
        assert "4242 on elsewhere" in holder_of(path)
        with pytest.raises(RequestError, match="4242 on elsewhere"), Lease(path):
            pass
    finally:
        done.set()
        other.join()


def test_a_watch_answers_at_once_and_believes_heartbeats_alone(
    path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(path)
    assert not watch.is_held()  # there is no such file
    write(silent=-3600)  # its clock is ahead
    began = time.monotonic()
    assert watch.is_held()
    assert time.monotonic() - began < 0.1
    monkeypatch.setattr(lease_module, "SILENT_SECONDS", 0.2)
    until(lambda: not watch.is_held())
    write(silent=-3700)
    assert watch.is_held()
    path.write_text("")
    assert not watch.is_held()


def test_a_holder_on_another_host_that_is_leaving_is_waited_for(path: Path, write: Write) -> None:
    write(stopping=True)
    released = threading.Timer(1.0, path.write_text, [""])  # as that host does when it leaves
    released.start()
    waits: list[str] = []
    with Lease(path, on_wait=waits.append):
        assert read_holder(path).host == HOST
    assert waits == ["waiting for process 4242, which is leaving this run"]
    released.join()


def test_a_process_of_this_host_without_the_lock_is_dead(path: Path, write: Write) -> None:
    """Where locks hold, the process number says nothing: it may belong to another by now."""
    write(host=HOST, pid=os.getpid())
    assert holder_of(path) == ""
    assert_free(path)


@pytest.fixture(params=["ENOLCK", "ENOTSUP", "ENOSYS"])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, of which there is none here."""

    def flock(file: int, operation: int) -> None:
        raise OSError(getattr(errno, request.param), "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_living_process_is_refused_and_a_dead_one_is_not(
    path: Path, write: Write
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        write(host=HOST, pid=other.pid)
        with pytest.raises(RequestError, match=f"process {other.pid} on {HOST}"), Lease(path):
            pass
        other.kill()
        other.wait()
        assert holder_of(path) == ""
        assert_free(path)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_other_hosts_are_judged_by_their_heartbeat(path: Path, write: Write) -> None:
    write()
    with pytest.raises(RequestError, match="4242 on elsewhere"), Lease(path):
        pass
    write(silent=3600)
    assert_free(path)


def test_other_trouble_with_locks_is_not_hidden(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.EIO, "the disk is dying")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="the disk is dying"), Lease(path):
        pass


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
