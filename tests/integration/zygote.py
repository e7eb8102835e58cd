"""Child processes of a command, forked from a process that has done the imports.

They are real processes, which can be stopped and killed, without ten seconds of start-up each. The
command that runs a sweep, or several workers, calls `install` first.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dit_lab.core import processes

LARGEST_REQUEST = 2**20


def install() -> None:
    """From now on, child processes are forked. Call it before anything else is started."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _serve(theirs)
    theirs.close()
    ForkedChild.server = ours
    processes.ChildProcess = ForkedChild  # type: ignore[misc]


class ForkedChild(processes.ChildProcess):
    """As `ChildProcess`."""

    server: socket.socket
    _ended: ClassVar[dict[int, int]] = {}

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: Path | None = None,
    ) -> None:
        self._started = time.monotonic()
        reading, self._lifeline = os.pipe()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        prints = os.open(output, flags, 0o666) if output else os.dup(1)
        kept = processes.with_trust(environment)
        request = {"module": module, "arguments": arguments, "environment": kept}
        socket.send_fds(self.server, [json.dumps(request).encode()], [reading, prints])
        os.close(reading)
        os.close(prints)
        while "started" not in (answer := self._hear()):
            self._ended[answer["ended"]] = answer["code"]
        self._pid = answer["started"]

    @classmethod
    def _hear(cls) -> dict[str, Any]:
        return json.loads(cls.server.recv(LARGEST_REQUEST))

    def poll(self) -> int | None:
        while select.select([self.server], [], [], 0)[0]:
            answer = self._hear()
            self._ended[answer["ended"]] = answer["code"]
        if self._pid not in self._ended:
            return None
        self._kill_group()
        return self._ended[self._pid]

    def stop(self) -> None:
        if self.poll() is None:
            os.kill(self._pid, signal.SIGTERM)

    def kill(self) -> None:
        while self.poll() is None:
            self._kill_group()
            time.sleep(0.01)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)


def _serve(requests: socket.socket) -> None:
    """Fork for every request and report every end, until the connection closes."""
    with contextlib.suppress(AttributeError):  # of a server that has started the command
        ForkedChild.server.detach()
    kept = requests.fileno()  # all else is the command's, and tells others that it lives
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the command
    while True:
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                _tell(requests, ended=pid, code=code)
        if not select.select([requests], [], [], 0.01)[0]:
            continue
        text, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 2)
        if not text:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            requests.close()
            _run(json.loads(text), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        _tell(requests, started=pid)


def _tell(requests: socket.socket, **answer: int) -> None:
    with contextlib.suppress(OSError):  # the command is gone; its children end by themselves
        requests.send(json.dumps(answer).encode())


def _run(request: Mapping[str, Any], reading: int, prints: int) -> None:
    """Run `python -m MODULE ARGUMENTS` in this process."""
    code: Any = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor, standard in ((reading, 0), (prints, 1), (prints, 2)):
            os.dup2(descriptor, standard)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = [request["module"], *request["arguments"]]
        if request["module"] != "dit_lab":  # it starts a job in its turn
            install()
        runpy.run_module(request["module"], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)
