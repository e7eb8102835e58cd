"""One writer to a run folder at a time: a lease that says who holds it and ends when they do.

The file `lease` carries an flock, which the kernel frees however the holder dies, and says who the
holder is, with a heartbeat, for hosts and file systems that share no locks. A holder on this host
is judged by its lock (or its process), one on another host by its heartbeat alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated

from dit_lab.core.errors import RequestError
from dit_lab.core.files import parse_json, read_within, to_json
from dit_lab.core.typed import FileName, Seconds, read_as, within

HEARTBEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0  # without a heartbeat: a holder on another host may be dead
HANDOVER_SECONDS = 120.0  # how long a start waits for a holder that is leaving
MOMENT_SECONDS = 1.0  # and for one that nothing names: it has just come, or only looks
LEASE_BYTES = 4096

_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who writes to a run folder, as its lease says."""

    host: FileName
    pid: Annotated[int, within(1, 2**31 - 1)]
    started: Seconds  # since the epoch, like `heartbeat`
    heartbeat: Seconds
    stopping: bool  # was asked to stop and is saving

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_leaving(self) -> bool:
        """It is saving after a signal, or it is dead and its children still hold the lock."""
        return self.stopping or (self.is_here and not _is_alive(self.pid))

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host} has been writing here since {since}"


class Busy(RequestError):  # noqa: N818 - says how it is
    """Somebody else holds a lease."""


class Lease:
    """The right to write to the folder of `path` (its file `lease`), while entered.

    Another holder is a Busy that names it, except that a holder who is leaving is waited
    for: a job that was put back into the queue may start while its predecessor still saves.
    `stopping` is asked whether this holder was told to stop; `on_wait` is told what is waited for.
    """

    def __init__(
        self,
        path: Path,
        *,
        stopping: Callable[[], bool] = lambda: False,
        on_wait: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._path, self._stopping, self._on_wait = path, stopping, on_wait
        self._left = threading.Event()

    def __enter__(self) -> Lease:
        self._acquire()
        self._started = time.time()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def _acquire(self) -> None:
        came, told = time.monotonic(), False
        while True:
            self._file = _opened(self._path, os.O_RDWR | os.O_CREAT)
            if not (obstacle := _obstacle(self._file, self._path)):
                return
            os.close(self._file)
            holder = read_holder(self._path)
            is_leaving = holder is None or holder.is_leaving
            patience = HANDOVER_SECONDS if holder else MOMENT_SECONDS
            if not is_leaving or time.monotonic() - came > patience:
                raise Busy(f"{self._path.parent}: {obstacle}; wait for it or stop it")
            if holder and not told:
                self._on_wait(f"waiting for process {holder.pid}, which is leaving this run")
                told = True
            time.sleep(0.2)

    def check(self) -> None:
        """Raise LeaseLost where another file, or none, is in its place by now."""
        try:
            is_ours = os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except (FileNotFoundError, NotADirectoryError):
            is_ours = False
        except OSError:  # a file server that is away for a while
            return
        if not is_ours:
            raise LeaseLost(f"{self._path.parent}: was removed or replaced while it was written to")

    def _beat(self) -> None:
        """Say every few seconds that the holder lives, and at once that it was told to stop."""
        last, stopping = time.monotonic(), False
        while not self._left.wait(0.5):
            if time.monotonic() - last > HEARTBEAT_SECONDS or stopping != self._stopping():
                last, stopping = time.monotonic(), self._stopping()
                self._write()

    def _write(self) -> None:
        holder = Holder(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self._started,
            heartbeat=time.time(),
            stopping=self._stopping(),
        )
        content = to_json(asdict(holder)).encode()
        try:
            os.pwrite(self._file, content, 0)
            os.ftruncate(self._file, len(content))
        except OSError:
            return  # a full disk ends training where something is lost by it, not here

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        self._thread.join()
        os.ftruncate(self._file, 0)
        os.close(self._file)


class LeaseLost(Exception):  # noqa: N818 - says what is gone
    """The file of a lease was removed or replaced while it was held: nothing that is written from
    then on lies where others look for it, and others may hold a lease of their own there."""


def holder_of(path: Path) -> str:
    """Who holds the lease at `path`, in words; "" where nobody does. Changes nothing."""
    try:
        file = _opened(path)
    except FileNotFoundError:
        return ""
    try:
        return _obstacle(file, path, fcntl.LOCK_SH)  # in nobody's way but a writer's
    finally:
        os.close(file)


def _opened(path: Path, flags: int = os.O_RDONLY) -> int:
    """The file of a lease, to look at it; RequestError where a folder or a pipe is in its place, or
    this user may not open it so."""
    if path.exists() and not path.is_file():
        raise RequestError(f"{path}: is no file, so nobody can hold it; move it away")
    try:
        return os.open(path, os.O_NONBLOCK | flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        what = "read" if flags == os.O_RDONLY else "write to"
        raise RequestError(
            f"{path.parent}: this user may not {what} its {path.name}; it is somebody else's"
        ) from None


def read_holder(path: Path) -> Holder | None:
    """The holder that the file names; None where it names none (or is being written)."""
    try:
        return read_as(Holder, parse_json(read_within(path, limit=LEASE_BYTES)), where=path)
    except (OSError, ValueError):
        return None


def _obstacle(file: int, path: Path, lock: int = fcntl.LOCK_EX) -> str:
    """Lock the open file; what stands in the way, or "" (the lock is then held by `file`)."""
    holder, is_held = _look(file, path, lock)
    if is_held is False or holder is None:
        return str(holder or "another process is writing here") if is_held else ""
    silent = time.time() - holder.heartbeat
    if is_held is None and abs(silent) > SILENT_SECONDS and not _beats(path):
        return ""
    return str(holder) if is_held else f"{holder} (last heard of {max(0, silent):.0f} s ago)"


def _look(file: int, path: Path, lock: int) -> tuple[Holder | None, bool | None]:
    """The holder that the file names, and whether it is held; None where only its heartbeat can
    tell. Where it is not held, the lock is then held by `file`."""
    locks = True
    try:
        fcntl.flock(file, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_holder(path), True
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        locks = False
    holder = read_holder(path)
    if holder is None or holder.is_here:
        return holder, holder is not None and not locks and _is_alive(holder.pid)
    return holder, None


class Watch:
    """Whether somebody holds a lease, asked again and again, with an answer at once.

    Who is on a host that shares no locks is alive while heartbeats arrive, and for SILENT_SECONDS
    after the last that did, by the clock of this host.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: Holder | None = None
        self._heard = 0.0

    def is_held(self) -> bool:
        try:
            file = _opened(self._path)
        except FileNotFoundError:
            return False
        try:
            holder, is_held = _look(file, self._path, fcntl.LOCK_SH)
        finally:
            os.close(file)
        if is_held is not None:
            return is_held
        if holder != self._last:
            self._last, self._heard = holder, time.monotonic()
        return time.monotonic() - self._heard < SILENT_SECONDS


def _beats(path: Path) -> bool:
    """Whether a heartbeat arrives, whatever the clocks of the two hosts say."""
    before = read_holder(path)
    time.sleep(2.5 * HEARTBEAT_SECONDS)
    return read_holder(path) != before


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
