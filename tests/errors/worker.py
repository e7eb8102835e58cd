"""Runs commands in forked processes, so that imports are done only once.

    python -m tests.errors.worker light|heavy

imports what every command needs (`heavy`: also torch, mlflow, diffusers), then answers requests,
one JSON object per line: it forks, and the child runs the command. The child is equivalent to
`dit-lab` after its imports; a test compares the two.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dit_lab.config.compose import Composer
from dit_lab.core.errors import RequestError
from dit_lab.tracking import mlflow_run

LIGHT = (
    *(f"dit_lab.cli.{verb}" for verb in ("main", "train", "sample", "evaluate", "doctor", "ui")),
    "dit_lab.cli.report",
    "dit_lab.cli.sweep_table",
    "dit_lab.report.question",
    "dit_lab.sweeps.run",
    "dit_lab.actions.extension",
    "dit_lab.actions.doctor",
    "numpy",
    "tests.errors.cases",
    "tests.warm",
)
HEAVY = (
    *LIGHT,
    "dit_lab.actions.train",
    "sklearn.datasets",
    "sklearn.model_selection",
    "mlflow.store.tracking.sqlalchemy_store",
    "diffusers.models.autoencoders.autoencoder_kl",
)
SLOW = ("torch", "mlflow", "sklearn", "diffusers")
LIMIT_SECONDS = 120

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000  # linux/sched.h
MS_RDONLY = 1  # linux/mount.h


CHOICES = (
    "experiment=quickstart",
    "experiment=own_images",
    "dataset=digits codec=identity model=pico",
    "dataset=digits codec=identity model=pico objective=rectified_flow",
    "dataset=digits codec=identity model=pico objective=flow_matching",
    "codec=identity model=pico",
)
"""Members of groups that many cases choose, which Hydra takes most of the time to compose."""


def share_choices() -> None:
    """Compose these configs once, for the children that are forked afterwards."""
    shared: dict[tuple[str, ...], Any] = {}
    original = Composer.__init__

    def with_shared(self: Composer, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self._chosen = shared

    Composer.__init__ = with_shared  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        for choice in CHOICES:
            with contextlib.suppress(RequestError):
                Composer().compose(choice.split())


def run(arguments: list[str], folder: Path) -> int:
    """Run a command in a folder and return its exit code."""
    from dit_lab.cli.main import main

    os.chdir(folder)
    os.environ["XDG_CONFIG_HOME"] = str(folder / ".config")  # where a user says what is trusted
    return main(arguments)


def run_case(title: str, folder: Path, values: Mapping[str, str]) -> dict[str, Any]:
    """Prepare the folder, run the case's command there, and return the result."""
    from tests.errors.case import arguments
    from tests.errors.cases import CASES

    case = CASES[title]
    try:
        _mount(folder, case.mount)
    except OSError as error:
        return {"code": 0, "could_not": f"no file systems of one's own here ({error})"}
    os.chdir(folder)
    case.prepare(folder)
    before, raised = _files(folder), []

    def record(self: RequestError, *args: object) -> None:
        caller = sys._getframe(1)
        raised.append((caller.f_code.co_filename, caller.f_lineno))

    RequestError.__init__ = record  # type: ignore[method-assign]
    code = run(arguments(case, values), folder)
    after = _files(folder)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return {
        "code": code,
        "changed": sorted(changed),
        "raised": raised,
        "imported": [name for name in SLOW if name in sys.modules],
    }


def make_start(name: str, folder: Path) -> dict[str, Any]:
    """Build one of the starting folders."""
    from tests.errors.starts import STARTS

    def typed(arguments: list[str]) -> None:
        code = run(arguments, folder)
        assert code == 0, f"exit code {code}"

    os.chdir(folder)
    STARTS[name](typed)
    return {"code": 0}


def _files(folder: Path) -> dict[str, str]:
    """Return path -> hash, "folder" or link target of everything below a folder."""

    def content(path: Path) -> str:
        if path.is_symlink():
            return f"link to {os.readlink(path)}"
        if not path.is_file():
            return "folder" if path.is_dir() else "neither folder nor file"
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return {str(path.relative_to(folder)): content(path) for path in folder.rglob("*")}


def _mount(folder: Path, mounts: Mapping[str, str]) -> None:
    """Mount small or read-only file systems that are visible to this process only.

    Raises OSError if the kernel does not allow it.
    """
    if not mounts:
        return
    libc = with_own_mounts()
    for name, options in mounts.items():
        place = folder / name
        place.mkdir()
        flags = MS_RDONLY if options == "ro" else 0
        data = b"" if options == "ro" else options.encode()
        _call(libc.mount, b"tmpfs", os.fsencode(place), b"tmpfs", flags, data)


def with_own_mounts(number: int = 0) -> ctypes.CDLL:
    """Allow this process to mount file systems that only it sees, without privileges.

    The process keeps its user id. Raises OSError if the kernel does not allow it.
    """
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    _call(libc.unshare, CLONE_NEWUSER | CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{number} {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return libc


def _call(function: Callable[..., int], *given: object) -> None:
    if function(*given):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# ---- forking ------------------------------------------------------------------------------------


def _in_a_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run `work` in a forked process, and return its result with its `out` and `err`.

    If the child ends early, there is no `code`, and `err` gives the reason.
    """
    with tempfile.TemporaryDirectory() as place:
        out, err, result = (Path(place) / name for name in ("out", "err", "result"))
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_SECONDS)
            for path, descriptor in ((out, 1), (err, 2)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
            try:
                result.write_text(json.dumps(work()))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
        os.waitpid(child, 0)
        found = json.loads(result.read_text()) if result.exists() else {}
        return {**found, "out": out.read_text(), "err": err.read_text()}


def _requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> None:
    """Answer requests until the input ends."""
    for name in HEAVY if sys.argv[1:] == ["heavy"] else LIGHT:
        importlib.import_module(name)
    share_choices()
    mlflow_run.START_SECONDS = mlflow_run.END_SECONDS = 2.0  # for a server that is away
    for request in _requests():
        folder = Path(request.pop("folder"))
        work = {"case": run_case, "start": make_start}[request.pop("do")]
        print(json.dumps(_in_a_child(lambda: work(folder=folder, **request))), flush=True)  # noqa: B023


if __name__ == "__main__":
    main()
