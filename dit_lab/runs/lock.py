"""Leases: exclusive write access to a run folder.

The file `lease` carries an flock, which the kernel releases even if the holder crashes. It also
names the holder and its last heartbeat, for hosts and file systems that do not share locks. A
holder on this host is alive if it has the lock (or, without locks, if its process exists); a holder
on another host is alive if its heartbeat is recent.
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
SILENT_SECONDS = 60.0  # without a heartbeat for so long, a holder on another host may be dead
HANDOVER_SECONDS = 120.0  # how long to wait for a holder that is about to exit
MOMENT_SECONDS = 1.0  # how long to wait for an unnamed holder, which starts or only inspects
LEASE_BYTES = 4096

_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that writes to a run folder, as recorded in the lease."""

    host: FileName
    pid: Annotated[int, within(1, 2**31 - 1)]
    started: Seconds  # since the epoch, like `heartbeat`
    heartbeat: Seconds
    stopping: bool  # received a stop signal and is saving

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_leaving(self) -> bool:
        """Whether it saves after a stop signal, or is dead while its children keep the lock."""
        return self.stopping or (self.is_here and not _is_alive(self.pid))

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host} has been writing here since {since}"


class Busy(RequestError):  # noqa: N818 - says how it is
    """Another process holds the lease."""


class Lease:
    """Context that holds the lease file `path`.

    Raises Busy, which names the holder, if another process holds the lease. Only a holder that is
    about to exit is waited for: a requeued batch job may start while its predecessor still saves.

    Args:
        stopping: returns whether this process received a stop signal; recorded in the lease.
        on_wait: called with a message before waiting.
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
        """Raise LeaseLost if the lease file was removed or replaced."""
        try:
            is_ours = os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except (FileNotFoundError, NotADirectoryError):
            is_ours = False
        except OSError:  # a temporary failure of a network file system
            return
        if not is_ours:
            raise LeaseLost(f"{self._path.parent}: was removed or replaced while it was written to")

    def _beat(self) -> None:
        """Write a heartbeat every few seconds, and immediately after a stop signal."""
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
            return  # a missed heartbeat on a full disk must not end training

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
    """The lease file was removed or replaced while it was held.

    Files written from then on may be invisible to others, and another process may hold a new lease
    at the same path.
    """


def holder_of(path: Path) -> str:
    """Return a description of the holder of the lease at `path`, or "". Changes nothing."""
    try:
        file = _opened(path)
    except FileNotFoundError:
        return ""
    try:
        return _obstacle(file, path, fcntl.LOCK_SH)  # a shared lock: other readers can inspect too
    finally:
        os.close(file)


def _opened(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a lease file and return its descriptor.

    Raises RequestError if it is no regular file or this user may not open it.
    """
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
    """Return the holder that the lease file names, or None if it names none or is incomplete."""
    try:
        return read_as(Holder, parse_json(read_within(path, limit=LEASE_BYTES)), where=path)
    except (OSError, ValueError):
        return None


def _obstacle(file: int, path: Path, lock: int = fcntl.LOCK_EX) -> str:
    """Try to lock the open file: return "" with the lock held, or else a description of why not."""
    holder, is_held = _look(file, path, lock)
    if is_held is False or holder is None:
        return str(holder or "another process is writing here") if is_held else ""
    silent = time.time() - holder.heartbeat
    if is_held is None and abs(silent) > SILENT_SECONDS and not _beats(path):
        return ""
    return str(holder) if is_held else f"{holder} (last heartbeat {max(0, silent):.0f} s ago)"


def _look(file: int, path: Path, lock: int) -> tuple[Holder | None, bool | None]:
    """Try to lock the open file: return the named holder, and whether it holds the lease.

    The second value is None if only the heartbeat can tell. If the lease is free, `file` holds the
    lock afterwards.
    """
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
    """Repeated checks of whether a lease is held, each of which returns immediately.

    A holder on another host counts as alive until SILENT_SECONDS after its last heartbeat was seen,
    by the clock of this host.
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
    """Wait for a heartbeat and return whether one arrived; independent of the hosts' clocks."""
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
