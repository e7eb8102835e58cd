"""Random command lines and files: a defined exit code and one line, never a traceback.

`FUZZ_EXAMPLES=2000 pytest tests/integration/test_fuzz.py` tests more; with `FUZZ_LOG=FILE` each
command and exit code is logged.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dit_lab.bench.record import read_record
from dit_lab.cli.main import VERBS, main
from dit_lab.codecs.facts import read_config as read_codec
from dit_lab.config import search_path
from dit_lab.config.compose import Composer
from dit_lab.config.objects import to_tree
from dit_lab.config.recorded import read_recorded
from dit_lab.config.yaml_files import read_config
from dit_lab.core.errors import RequestError
from dit_lab.core.text import one_line
from dit_lab.data.latent_facts import read_manifest
from dit_lab.data.pair_facts import PairFacts, read_pair_facts, shard
from dit_lab.data.pairs import Pairs
from dit_lab.evaluation.card import read_evaluation
from dit_lab.interop.files import open_weights
from dit_lab.reproduce.expected import read_expected
from dit_lab.runs.exported import HEADER_KEY, read_exported
from dit_lab.runs.folder import RunFolder, flatten, read_json, read_status, read_tracked, step_of
from dit_lab.runs.lock import holder_of, read_holder
from dit_lab.runs.manifest import SweepFolder
from dit_lab.runs.metrics import read_metrics
from dit_lab.runs.recorded import recorded_shapes
from dit_lab.training.tensor_files import TensorGroup

RECORDED = Path(__file__).parents[1] / "data/recorded_run"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
LOOKING = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


# ---- readers ------------------------------------------------------------------------------------

RUN = RunFolder(Path())
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "configuration": ("config.yaml", lambda at: read_recorded(RunFolder(at))),
    "configuration as text": ("config.yaml", lambda at: read_config(RunFolder(at))),
    "identity": ("identity.json", lambda at: recorded_shapes(RunFolder(at))),
    "status": ("status.json", lambda at: read_status(RunFolder(at))),
    "told": ("tracking.json", lambda at: read_tracked(RunFolder(at))),
    "lease": ("lease", lambda at: read_holder(at / "lease")),
    "metrics": ("metrics.jsonl", lambda at: read_metrics(at / "metrics.jsonl")),
    "evaluation": ("evaluation.json", lambda at: read_evaluation(at / "evaluation.json")),
    "manifest": ("manifest.json", lambda at: SweepFolder(at).read()),
    "record": ("record.json", lambda at: read_record(at / "record.json")),
    "header": ("a.safetensors", lambda at: read_exported(at / "a.safetensors")),
    "expected": ("expected.yaml", read_expected),
    "latents": ("manifest.json", read_manifest),
    "pairs": ("pairs.json", read_pair_facts),
    "codec": ("config.json", read_codec),
}
"""What is read: the file's name, and its reader, which is given the folder."""

MAY_IGNORE = ("lease", "metrics")
"""Readers that take what is no record for none."""


def header(known: bytes) -> bytes:
    """The start of an exported file that says this of itself."""
    text = json.dumps({"__metadata__": {HEADER_KEY: known.decode("latin-1")}}).encode()
    return len(text).to_bytes(8, "little") + text


DEEP = b"[" * 100_000
BOMB = b"a: &a [x,x]\n" + b"".join(
    b"%c: &%c [*%c,*%c,*%c,*%c]\n" % (98 + n, 98 + n, *[97 + n] * 4) for n in range(15)
)
HOSTILE: dict[str, bytes] = {
    "nothing": b"\0",
    "no JSON": b"{",
    "a list": b"[]",
    "null": b"null",
    "deep": DEEP,
    "a deep mapping": b'{"a":' * 100_000,
    "a number of 5000 digits": b'{"step": ' + b"9" * 5000 + b"}",
    "bytes": b"\xff\xfe\x00",
    "half a character": b'{"name": "\\ud800"}',
    "an alias bomb": BOMB,
    "a tag of Python": b"!!python/object/apply:os.system ['true']",
    "infinity": b'{"step": 1e999}',
    "a key twice": b'{"step": 1, "step": "x"}',
    "a date": b"name: 2026-01-01\n",
}


def answer(read: Callable[[Path], object], folder: Path) -> str:
    """What a reader says of its file, "" where it takes it; any other exception goes through."""
    try:
        read(folder)
    except RequestError as refusal:
        return one_line(refusal)
    return ""


@pytest.mark.parametrize("name", READERS)
def test_no_reader_is_led_astray(name: str, tmp_path: Path) -> None:
    """One line, in a moment, whatever lies there."""
    file, read = tmp_path / READERS[name][0], READERS[name][1]
    for what, content in HOSTILE.items():
        file.write_bytes(header(content) if name == "header" else content)
        started = time.monotonic()
        said = answer(read, tmp_path)
        assert said or name in MAY_IGNORE, what
        assert time.monotonic() - started < 5, what
    for make in (file.mkdir, lambda: os.mkfifo(file), lambda: file.symlink_to("/dev/zero")):
        file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)
        make()
        assert answer(read, tmp_path) or name in MAY_IGNORE
    file.unlink()
    with open(file, "wb") as opened:
        opened.truncate(2**33)
    assert answer(read, tmp_path) or name in MAY_IGNORE


@pytest.mark.parametrize("content", [b"", b"\0" * 20, header(b"{}")[:-5]])
def test_files_of_tensors_are_refused(content: bytes, tmp_path: Path) -> None:
    """And names that are none of the lab's."""
    facts = PairFacts(
        drawn_by="run", sampler={}, guidance={}, seed=0, train_pairs=1, held_out_pairs=1,
        latent_shape=[1, 2, 2], num_classes=1, codec="x", dtype="float32",
    )  # fmt: skip
    facts.write(tmp_path)
    shard(tmp_path, 0).write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "lease").mkdir()
    (tmp_path / "a.safetensors.index.json").write_bytes(content)
    for read in (
        lambda at: Pairs(at, split="train"),
        lambda at: TensorGroup(at, "model"),
        lambda at: holder_of(at / "lease"),
        lambda at: step_of(at / "step-..%2f"),
        lambda at: open_weights(at / "a.safetensors.index.json"),
    ):
        assert answer(read, tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of an earlier version recorded, as plain values."""
    (run,) = (RECORDED / "recorded").iterdir()
    (evaluation,) = (run / "evaluations").iterdir()
    return {
        "config.yaml": yaml.safe_load((run / "config.yaml").read_text()),
        "identity.json": read_json(run / "identity.json"),
        "status.json": read_json(run / "status.json"),
        "evaluation.json": read_json(evaluation),
    }


@given(data=st.data())
@LOOKING
def test_a_record_with_any_value_is_read_or_refused(
    data: st.DataObject, whole: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One value of a whole record is replaced, or one key is left out."""
    folder = tmp_path_factory.mktemp("record")
    name = data.draw(st.sampled_from([n for n, (file, _) in READERS.items() if file in whole]))
    file, read = READERS[name]
    content = json.loads(json.dumps(whole[file]))
    place = content
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if data.draw(st.booleans()):
        place[key] = data.draw(VALUES)
    else:
        del place[key]
    text = yaml.safe_dump(content) if file.endswith(".yaml") else json.dumps(content)
    (folder / file).write_text(text, encoding="utf-8", errors="surrogatepass")
    answer(read, folder)
    shutil.rmtree(folder)


@given(cut=st.floats(0, 1), flipped=st.binary(min_size=1, max_size=4), at=st.floats(0, 1))
@LOOKING
def test_a_damaged_exported_file_is_read_or_refused(
    cut: float, flipped: bytes, at: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray((RECORDED / "exported.safetensors").read_bytes())
    where = int(at * min(len(whole), 20_000))
    whole[where : where + len(flipped)] = flipped
    folder = tmp_path_factory.mktemp("exported")
    (folder / "a.safetensors").write_bytes(whole[: max(1, int(cut * len(whole)))])
    answer(READERS["header"][1], folder)
    shutil.rmtree(folder)


# ---- verbs --------------------------------------------------------------------------------------

ODD = (
    "", "null", "true", "nan", "inf", "-inf", "-1", "0", "1e400", "1e11", "8.5", "16.0", "1e1",
    "999999999999999999999", "[[1]]", "[]", "[a", "{a:1}", "{}", "[null]", "a,b", "a=b", "???",
    "~nosuchuser/x", "../../escape", "/", ".", "/dev/null/x", "/etc/passwd", "x" * 300, "\x1b[31m",
    "[/b]", "a\nb", "ä/ö", "q?x", "a%20b", "'", "\\'", "${oc.env:HOME}", "${nothing}", "${", "$",
    "sqlite:////etc/passwd", "http://[::1", "dit_lab.cli.main.main", "os.system", "-m", "--help",
)  # fmt: skip


def known_keys() -> list[str]:
    """All keys of a training, and all groups."""
    tree = to_tree(Composer().compose(["experiment=quickstart"]))
    keys = [key for key, _ in flatten(tree) if not key.startswith("choices")]
    return [*keys, *search_path.groups(), "run", "out", "nothing", "hydra/launcher", "hydra.x"]


WITH = {
    "train": ["--cfg", "job", "experiment=quickstart"],
    "describe": ["experiment=quickstart"],
    "check": ["dataset=digits"],
    "sample": ["run=RUN"],
    "evaluate": ["run=RUN", "evaluation.num_images=0"],
    "report": [],
    "doctor": [],
    "runs": ["list"],
    "sweep": ["status"],
    "experiments": [],
    "import": ["nothing", "--out", "imported"],
    "export": ["RUN"],
    "ema": ["RUN"],
    "encode": ["out=encoded", "dataset.root=nowhere"],
    "reflow": ["run=RUN", "pairs.sample.num_images=0"],
    "reproduce": ["nothing"],
    "bench": ["--check"],
    "ui": ["--port", "0"],
}
"""Verb -> words with which it computes little, whatever follows."""


def test_every_verb_is_tried() -> None:
    assert WITH.keys() == VERBS.keys()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("typed")
    shutil.copytree(RECORDED / "recorded", folder / "outputs/runs/recorded")
    return folder


KEYS: list[str] = []


@given(data=st.data())
@LOOKING
def test_whatever_is_typed_is_answered(data: st.DataObject, place: Path) -> None:
    KEYS[:] = KEYS or known_keys()
    verb = data.draw(st.sampled_from(sorted(WITH)))
    odd = st.sampled_from(ODD) | st.text(max_size=12)
    typed = st.builds("{}={}".format, st.sampled_from(KEYS), odd) | odd
    words = [verb, *WITH[verb], *data.draw(st.lists(typed, min_size=1, max_size=2))]
    words = [word.replace("RUN", "outputs/runs/recorded") for word in words]
    out, err = StringIO(), StringIO()
    with chdir(place), redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as left:  # --help
            code = int(left.code or 0)
    assert code in (0, 1, 2), words
    if code == 2:
        lines = [line for line in err.getvalue().splitlines() if line.startswith("dit-lab: ")]
        assert len(lines) == 1 and one_line(lines[0]) == lines[0], (words, err.getvalue())
    with open(os.environ.get("FUZZ_LOG", os.devnull), "a") as log:
        log.write(f"{verb} {code}\n")
