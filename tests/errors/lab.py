"""Runs the commands of the cases, and stores and checks their output."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Self

from tests.errors.case import Case, arguments
from tests.errors.starts import UNTRAINED, only_run, only_sweep

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a command; variable paths and hashes in `out` and `err` are replaced."""

    code: int
    out: str
    err: str
    changed: Sequence[str] = ()  # files made, changed or removed
    raised: Sequence[tuple[str, int]] = ()  # where refusals were made: (source file, line)
    imported: Sequence[str] = ()  # slow libraries
    could_not: str = ""  # why the case cannot be run on this machine

    def check(self, case: Case) -> None:
        """Check for one line on standard error, the exit code, no leftover files, no slow imports.

        A command that is not refused, or only after torch is imported, may also report the groups
        that it reads from user-defined files.
        """
        assert self.code == case.code, self
        lines = self.err.splitlines()
        if case.code != 2 or case.slow:
            lines = [line for line in lines if not line.startswith("dit-lab: using conf/")]
        assert len(lines) == 1 or (not lines and case.code == 0), self
        assert all(line.startswith("dit-lab: ") for line in lines if case.code), self
        printed = [*lines, *(self.out.splitlines() if case.code == 0 else [])]
        assert any(re.search(case.says, line) for line in printed), f"no {case.says!r} in {self}"
        assert "Traceback" not in self.out + self.err
        allowed = [n for n in self.changed for pattern in case.leaves if fnmatch(n, pattern)]
        assert sorted(set(self.changed) - set(allowed)) == []
        assert case.slow or not self.imported


class Lab:
    """A fixed folder for all cases, so that the paths in recorded runs stay valid.

    Outcomes are files in `shared`, which other test processes read too.
    """

    def __init__(self, place: Path, shared: Path) -> None:
        self.folder = place / "work"
        self._kept = place / "kept"
        self._shared = shared
        self._workers: dict[str, subprocess.Popen[str]] = {}
        self._taken: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.communicate()
        if self._taken is not None:
            self._taken.close()

    def outcome(self, case: Case) -> Outcome:
        """Return the result of the case's command, which is run once."""
        name = hashlib.sha256(case.title.encode()).hexdigest()
        file = self._shared / f"{name}.json"
        if file.exists():
            return Outcome(**json.loads(file.read_text()))
        outcome = self._run(case)
        own = self._shared / f"{name}.{os.getpid()}"
        own.write_text(json.dumps(asdict(outcome)))
        own.replace(file)
        return outcome

    def typed(self, case: Case) -> Outcome:
        """Run the case with `python -m dit_lab` in a new process."""
        self.put(case.start)
        case.prepare(self.folder)
        values = self.values(case)
        done = subprocess.run(
            [sys.executable, "-m", "dit_lab", *arguments(case, values)],
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        out, err = (self.normalised(text, values) for text in (done.stdout, done.stderr))
        return Outcome(code=done.returncode, out=out, err=err)

    def put(self, start: str) -> None:
        """Replace the folder by a copy of a start."""
        if not (self._kept / start).exists():
            self._clear()
            self.folder.mkdir(parents=True)
            kind = "light" if start in UNTRAINED else "heavy"
            made = self._ask(kind, do="start", name=start)
            assert "code" in made, made["err"]
            shutil.copytree(self.folder, self._kept / start, symlinks=True)
        self._clear()
        shutil.copytree(self._kept / start, self.folder, symlinks=True)

    def values(self, case: Case) -> dict[str, str]:
        """Return the substitutions in a command; PORT is a port in use."""
        values = {"FOLDER": str(self.folder)}
        if "RUN" in case.command:
            values["RUN"] = str(only_run(self.folder).relative_to(self.folder))
        if "SWEEP" in case.command:
            values["SWEEP"] = str(only_sweep(self.folder).relative_to(self.folder))
        if "PORT" in case.command:
            self._taken = self._taken or socket.create_server(("127.0.0.1", 0))
            values["PORT"] = str(self._taken.getsockname()[1])
        return values

    def normalised(self, text: str, values: dict[str, str]) -> str:
        """Replace parts of a text that vary with date, folder or machine."""
        text = text.replace(str(self.folder), "FOLDER").replace(str(ROOT), "CHECKOUT")
        if "PORT" in values:
            text = text.replace(values["PORT"], "PORT")
        text = re.sub(r"\d{8}-\d{6}-[0-9a-f]{6}", "DATE-HEX", text)
        text = re.sub(r"process \d+ on \S+", "process PID on HOST", text)
        text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
        return re.sub(r"\b(?:[0-9a-f]{12}|[0-9a-f]{64})\b", "HASH", text)

    def _run(self, case: Case) -> Outcome:
        self.put(case.start)
        values = self.values(case)
        found = self._ask(
            "heavy" if case.slow else "light", do="case", title=case.title, values=values
        )
        assert "code" in found, f"{case.title}: {found['err']}"
        return Outcome(
            code=found["code"],
            out=self.normalised(found["out"], values),
            err=self.normalised(found["err"], values),
            changed=[self.normalised(name, values) for name in found.get("changed", ())],
            raised=found.get("raised", ()),
            imported=found.get("imported", ()),
            could_not=found.get("could_not", ""),
        )

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ask(self, kind: str, **request: Any) -> dict[str, Any]:
        """Send a request to a worker, which is started on first use."""
        if kind not in self._workers:
            self._workers[kind] = subprocess.Popen(
                [sys.executable, "-m", "tests.errors.worker", kind],
                cwd=ROOT,
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        worker = self._workers[kind]
        assert worker.stdin is not None and worker.stdout is not None
        print(json.dumps({**request, "folder": str(self.folder)}), file=worker.stdin, flush=True)
        answer = worker.stdout.readline()
        assert answer, f"the {kind} worker ended; see its standard error"
        return json.loads(answer)
