"""Every command that reads files from others, with the same set of malicious files.

An audit hook observes the interpreter: no command is started, no connection opened, no module of
the current folder imported, and nothing written outside of it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import save_file

from dit_lab.cli.main import VERBS, main
from dit_lab.runs.exported import HEADER_KEY
from tests.conftest import TINY

SECRET = "a-secret-of-this-machine"
MORE = ["training.total_steps=44"]

COMMANDS: dict[str, list[list[str]]] = {
    "train": [
        ["resume=RUN", *MORE],
        [*TINY, "name=other", "tracking=none", "init_from=RUN"],
        [*TINY, "name=other", "tracking=none", "init_from=FILE"],
        [*TINY, "name=other", "tracking=none", "guidance.weak_run=RUN", "guidance.scale=2"],
    ],
    "sample": [["run=RUN", "out=a.png"], ["run=FILE", "out=a.png"]],
    "evaluate": [["run=RUN", "evaluation.num_images=16"], ["-m", "run=RUN", "sampler.steps=1,2"]],
    "reflow": [["run=RUN", "pairs.sample.num_images=0"]],
    "export": [["RUN", "out.safetensors"], ["FILE", "out.safetensors"]],
    "import": [["FILE", "--out", "imported"]],
    "report": [["runs=RUN"], ["SWEEP"]],
    "sweep": [["status", "SWEEP"], ["resume", "SWEEP"]],
    "runs": [
        ["list"],
        ["prune", "RUN"],
        ["remove", "RUN", "--dry-run"],
        ["remove", "SWEEP", "--dry-run"],
    ],
    "doctor": [[]],
    "ema": [["RUN", "--std", "0.1"]],
    "bench": [["--check", "RECORD"]],
}
"""Verb -> what is typed after it; RUN, FILE, SWEEP and RECORD are the foreign ones."""

READS_NONE = {
    "check": "a dataset alone", "encode": "a dataset alone", "describe": "what is typed",
    "experiments": "the folder's own experiments", "reproduce": "the folder's own experiments",
    "ui": "what is typed",
}  # fmt: skip

READS_NO_COMPONENTS = (["report"], ["runs"], ["doctor"], ["ema"], ["sweep", "status"])
"""Commands that read a configuration as text and build nothing of it."""


def test_every_verb_is_walked_over() -> None:
    """A new verb says what it reads."""
    assert COMMANDS.keys() | READS_NONE.keys() == VERBS.keys()


# ---- what is watched ----------------------------------------------------------------------------

STARTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")


@dataclass
class Watch:
    """What the interpreter was asked to do while a command ran."""

    inside: Path
    events: list[str] = field(default_factory=list)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS and "git" not in str(arguments[0]):
            self.events.append(f"{event} {arguments}")
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            self.events.append(f"{event} {arguments[1]}")
        elif self._is_import(event, arguments) or self._is_write(event, arguments):
            self.events.append(f"{event} {arguments[0]}")

    def _is_import(self, event: str, arguments: tuple[Any, ...]) -> bool:
        return event == "import" and arguments[0].partition(".")[0] == "evil"

    def _is_write(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event != "open" or not isinstance(path := arguments[0], str | bytes):
            return False
        if not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
        place = Path(os.path.abspath(os.fsdecode(path)))
        return not place.is_relative_to(self.inside) and place.parts[1] not in ("dev", "proc")


_watched: list[Watch] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for watch in _watched:
        watch.see(event, arguments)


@pytest.fixture(scope="module", autouse=True)
def _audited() -> None:
    sys.addaudithook(_hook)


@dataclass
class Answer:
    code: int
    text: str
    events: list[str]


def typed(words: list[str], folder: Path) -> Answer:
    """A command typed in a folder, and what it did; other exceptions than refusals go through."""
    out, watch = StringIO(), Watch(folder)
    with chdir(folder), redirect_stdout(out), redirect_stderr(out):
        _watched.append(watch)
        try:
            code = main(words)
        finally:
            _watched.remove(watch)
    return Answer(code, out.getvalue(), watch.events)


# ---- what is hostile ----------------------------------------------------------------------------

Config = dict[str, Any]


def set_to(key: str, value: Any) -> Callable[[Config], None]:
    """Changes one value of a configuration."""

    def change(config: Config) -> None:
        *parents, leaf = key.split(".")
        for parent in parents:
            config = config[parent]
        config[leaf] = value

    return change


def dispatcher(config: Config) -> None:
    """The command line's own dispatcher as the codec, told to trust and to call what it should."""
    config["codec"] = {"_target_": "dit_lab.cli.main.main", "arguments": ["train"]}
    config["trusted_modules"] = ["posix"]


CODE: dict[str, Callable[[Config], None]] = {
    "the command line": dispatcher,
    "os.system": set_to("codec._target_", "os.system"),
    "posix.system, trusted": lambda c: c.update(
        codec={"_target_": "posix.system", "command": "touch ran"}, trusted_modules=["posix"]
    ),
    "subprocess.Popen": set_to("model._target_", "subprocess.Popen"),
    "builtins.exec": set_to("objective._target_", "builtins.exec"),
    "torch.load": set_to("codec._target_", "torch.load"),
    "torch.hub.load": set_to("model._target_", "torch.hub.load"),
    "a process of the package": set_to("dataset._target_", "dit_lab.core.processes.ChildProcess"),
    "a reader of the package": set_to("codec._target_", "dit_lab.interop.files.open_weights"),
    "a component of another group": set_to("codec._target_", "dit_lab.objectives.ddpm.DDPM"),
    "a module of this folder": lambda c: c.update(
        objective={"_target_": "evil.Mine"}, trusted_modules=["evil"]
    ),
    "an optimizer": set_to("optimizer._target_", "evil.Mine"),
    "a schedule": set_to("schedule._target_", "evil.Mine"),
    "a coupling": set_to("coupling._target_", "evil.Mine"),
    "a sampler": set_to("sampler._target_", "evil.Mine"),
    "a metric": lambda c: c["metric"].update(mine={"_target_": "evil.Mine"}),
    "a target that is no text": set_to("codec._target_", ["os", "system"]),
}
"""Components that no recorded configuration may name."""

VALUES: dict[str, Callable[[Config], None]] = {
    "a secret in the name": set_to("name", "n-${oc.env:SECRET}"),
    "a secret in the root": set_to("paths.root", "ELSEWHERE/${oc.env:SECRET}"),
    "a secret in the address": set_to("tracking.uri", "http://127.0.0.1:9/${oc.env:SECRET}"),
    "a secret in a list": set_to("ema.decays", ["${oc.env:SECRET}"]),
    "a secret in a component": set_to("dataset.root", "${oc.env:SECRET}"),
    "a secret among the choices": set_to("choices.model", "${oc.env:SECRET}"),
}
"""Values that would be resolved."""

PLACES: dict[str, Callable[[Config], None]] = {
    "a name that climbs": set_to("name", "../../../../escape"),
    "an absolute name": set_to("name", "ELSEWHERE"),
    "another root": set_to("paths.root", "ELSEWHERE"),
    "a server": set_to("tracking.uri", "http://127.0.0.1:9"),
    "a server with a password": set_to("tracking.uri", "http://me:password@127.0.0.1:9"),
    "a database elsewhere": set_to("tracking.uri", "sqlite:///ELSEWHERE/mlflow.db"),
}
"""Values that say where something is written or sent."""


# ---- the foreign files --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tracked run, its exported file, a sweep and a benchmark record."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "evil.py").write_text("open('ran', 'w')\nclass Mine: ...\n")
    (folder / "record.json").write_text('{"costs": {}, "overrides": []}')
    axes = ["seed=0,1", "name=swept", "sweep.name=swept", "training.total_steps=1"]
    with chdir(folder), redirect_stdout(StringIO()):
        assert main(["train", *TINY, "metric=[memorisation]"]) == 0
        assert main(["train", "-m", *TINY, "tracking=none", *axes]) == 0
        assert main(["export", str(run_in(folder)), "run.safetensors"]) == 0
    return folder


@pytest.fixture(scope="module")
def folder(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a case lies; made anew by `prepared`."""
    return tmp_path_factory.mktemp("case")


def run_in(folder: Path) -> Path:
    (run,) = folder.glob("outputs/runs/tiny/*")
    return run


def prepared(made: Path, folder: Path, change: Callable[[Config], None]) -> None:
    """A copy of what was made, in which every recorded configuration is changed."""
    shutil.rmtree(folder)
    shutil.copytree(made, folder, symlinks=True)
    run = run_in(folder)
    config = yaml.safe_load((run / "config.yaml").read_text().replace(str(made), str(folder)))
    change(config)
    (run / "config.yaml").write_text(placed(yaml.safe_dump(config), folder))
    for job in folder.glob("outputs/sweeps/*/jobs/*/config.json"):
        of_job = json.loads(job.read_text().replace(str(made), str(folder)))
        change(of_job)
        job.write_text(placed(json.dumps(of_job), folder))
    (sweep,) = folder.glob("outputs/sweeps/*/manifest.json")
    sweep.write_text(sweep.read_text().replace('"FINISHED"', '"KILLED"'))
    exported = folder / "run.safetensors"
    with safe_open(exported, framework="np") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        header = json.loads(opened.metadata()[HEADER_KEY])
    change(header["config"])
    known = placed(json.dumps(header), folder)
    save_file(tensors, exported, {"format": "pt", HEADER_KEY: known})
    overrides = [f"{key}={value}" for key, value in flattened(config).items()]
    record = placed(json.dumps({"costs": {}, "overrides": overrides}), folder)
    (folder / "record.json").write_text(record)


def elsewhere(folder: Path) -> Path:
    """A place that no command may write to."""
    return folder.with_name("elsewhere")


def placed(text: str, folder: Path) -> str:
    """With the path of ELSEWHERE."""
    return text.replace("ELSEWHERE", str(elsewhere(folder)))


def flattened(config: Config, prefix: str = "") -> dict[str, Any]:
    """What differs from a group's member: `_target_`s, and what is at the top."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= flattened(value, f"{prefix}{key}.")
        elif key in ("_target_", "root", "uri", "name", "trusted_modules"):
            found[f"{prefix}{key}"] = value
    return found


def commands(folder: Path) -> list[list[str]]:
    """All that is typed, with the foreign files' names."""
    (sweep,) = folder.glob("outputs/sweeps/*")
    names = {
        "RUN": run_in(folder), "FILE": folder / "run.safetensors", "SWEEP": sweep,
        "RECORD": folder / "record.json",
    }  # fmt: skip
    walk = [[verb, *words] for verb, typed_after in COMMANDS.items() for words in typed_after]
    for name, path in names.items():
        place = str(path.relative_to(folder))
        walk = [[word.replace(name, place) for word in words] for words in walk]
    return walk


@pytest.fixture
def _secret(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SECRET", SECRET)
    return iter([None])


@pytest.mark.slow
@pytest.mark.usefixtures("_secret")
@pytest.mark.parametrize("what", [*CODE, *VALUES, *PLACES])
def test_nothing_of_it_is_run_resolved_or_contacted(what: str, made: Path, folder: Path) -> None:
    change = {**CODE, **VALUES, **PLACES}[what]
    prepared(made, folder, change)
    before = {path: path.read_bytes() for path in folder.rglob("config.*") if path.is_file()}
    for words in commands(folder):
        answer = typed(words, folder)
        said = f"{words} on {what}: {answer}"
        assert answer.events == [], said
        assert SECRET not in answer.text, said
        assert answer.code in (0, 1, 2), said
        builds = not any(words[: len(some)] == some for some in READS_NO_COMPONENTS)
        if what not in PLACES and builds:
            assert answer.code == 2, said
            assert answer.text.count("\n") == 1 and answer.text.startswith("dit-lab: "), said
    assert not (folder / "ran").exists()
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not [path for path in folder.rglob("*") if SECRET in str(path)]
    assert not elsewhere(folder).exists()
