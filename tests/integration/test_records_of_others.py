"""Every reader of records with the same malicious files: one line, quickly, little memory.

Values read from a record of others have the declared types, or they are refused.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from dit_lab.bench.record import read_record
from dit_lab.codecs import facts as codec_facts
from dit_lab.config.recorded import read_recorded
from dit_lab.config.yaml_files import load_recipe, read_config
from dit_lab.core.errors import RequestError
from dit_lab.data.latent_facts import Manifest as Latents
from dit_lab.data.latent_facts import Plan, read_manifest
from dit_lab.data.pair_facts import PairFacts, read_pair_facts
from dit_lab.evaluation.card import read_evaluation
from dit_lab.interop.diffusers_folder import DiffusersFormat, open_folder
from dit_lab.interop.files import open_weights
from dit_lab.reproduce.expected import read_expected
from dit_lab.reproduce.folder import ReproductionFolder
from dit_lab.runs.exported import read_exported
from dit_lab.runs.folder import RunFolder, read_status, read_tracked
from dit_lab.runs.lock import holder_of, read_holder
from dit_lab.runs.manifest import Job, Manifest, SweepFolder
from dit_lab.runs.metrics import LINE_BYTES, last_metrics, read_metrics
from dit_lab.runs.recorded import recorded
from dit_lab.training.checkpoint import Checkpoint, DamagedCheckpoint, Measured
from tests.records import DATA, HASH, HEADER, IDENTITY, STATUS, write_header
from tests.synthetic import SETTINGS

pytestmark = pytest.mark.slow  # minutes: each value of each record in turn

RECORDED = next(Path(__file__).parents[1].glob("data/recorded_run/recorded/*"))
SECONDS, MEGABYTES = 1.0, 400
ODD = [[{"\x1b[31m\n": True}]]  # of no declared type
WRONG = (None, True, -1, 1.5, float("nan"), "../../x", "a\0b", "\ud800", [], {}, 10**400, ODD)

JOB = Job(number=0, overrides=[], config_hash=HASH, run=f"runs/one/{HASH}")
SWEEP: dict[str, Any] = {
    "name": "seeds", "typed": [], "config_dirs": [], "identity": HASH, "axes": {"seed": ["0"]},
    "settings": SETTINGS, "tracking": {"backend": "none", "uri": None, "experiment": "seeds"},
    "jobs": [asdict(JOB)], "status": "RUNNING", "created": 1e9, "parent_run_id": None,
}  # fmt: skip
PLAN = Plan(
    data=DATA, codec="made", mirrors=1, moments_shape=[2, 4, 4], dtype="float16",
    shard_images=2000, chunk_images=1,
)  # fmt: skip
SHARDS = {name: {"bytes": 1, "sha256": ""} for split in ("train", "validation")
          for name in PLAN.shards(split)}  # fmt: skip
LATENTS = Latents(plan=PLAN, shards=SHARDS, source={})
PAIRS = PairFacts(
    drawn_by="a run", sampler={}, guidance={}, seed=1, train_pairs=4, held_out_pairs=1,
    latent_shape=[1, 8, 8], num_classes=10, codec="identity", dtype="float32",
)  # fmt: skip
EXPECTED: dict[str, Any] = {
    "recorded": {"date": "2026-11-28", "device": "x", "num_threads": 1, "versions": {"a": "1"},
                 "code": HASH, "train_hashes": {"one": HASH}, "seeds": [0], "minutes": 1.0},
    "probes": {"one": {"losses": {"value": [1.0], "tolerance": {"cpu": 0.1}}}},
    "measured": {"one": {"eval/loss": {"mean": 1.0, "deviation": 0.0, "tolerance": 0.0,
                                       "values": [1.0]}}},
    "published": [{"source": "a", "metric": "b", "values": {"one": 1.0}}],
}  # fmt: skip
TRANSFORMER: dict[str, Any] = {
    "_class_name": "DiTTransformer2DModel", "in_channels": 4, "sample_size": 8, "patch_size": 2,
    "num_embeds_ada_norm": 10, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1,
}  # fmt: skip
LAB = {"objective": {"name": "ddpm"}, "num_classes": 10, "null_label": True, "class_names": ["a"],
       "levels": 256}  # fmt: skip
AUTOENCODER = {"_class_name": "AutoencoderTiny", "in_channels": 3, "latent_channels": 4,
               "encoder_block_out_channels": [1, 2]}  # fmt: skip
ROW = {"step": 1, "seconds": 1e9, "metrics": {"train/loss": 1.0}}
HOLDER = {
    "host": socket.gethostname(),
    "pid": 2**22,
    "started": 1e9,
    "heartbeat": 1e9,
    "stopping": False,
}


def architecture(folder: Path) -> object:
    write_weights(folder)
    return DiffusersFormat().architecture(open_folder(folder), {})


def write_weights(folder: Path) -> None:
    """A tensor of a transformer, by its name."""
    tensors = {"transformer_blocks.0.attn1.to_q.weight": np.zeros((4, 4), dtype=np.float32)}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")


def architecture_of_pipeline(folder: Path) -> object:
    transformer = folder / "transformer"
    transformer.mkdir(exist_ok=True)
    (transformer / "config.json").write_text(json.dumps(TRANSFORMER))
    write_weights(transformer)
    return DiffusersFormat().architecture(open_folder(folder), {})


def write_plain(file: Path, values: object) -> None:
    text = yaml.safe_dump(values) if file.suffix == ".yaml" else json.dumps(values)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Reader:
    """A reader, the file that it reads in a folder, and what lies there where all is well."""

    name: str
    file: str
    whole: Any
    read: Callable[[Path], object]  # of the folder
    names: tuple[str, ...] = ()  # the values that are names or paths, by their place
    loose: tuple[str, ...] = ()  # the places that may hold anything: others check them
    ignores: bool = False  # what is damaged, as it ignores what is torn
    write: Callable[[Path, object], None] = write_plain


def sweep(folder: Path) -> SweepFolder:
    return SweepFolder(folder)


CONFIG = yaml.safe_load((RECORDED / "config.yaml").read_text())
CARD = json.loads(next((RECORDED / "evaluations").glob("*.json")).read_text())
PART_OPTIONS = ("model", "objective", "sampler")
NOT_READ = tuple(
    key
    for key in CONFIG
    if key not in ("seed", "name", "training", "ema", "tracking", "paths", "choices", *PART_OPTIONS)
) + tuple(
    f"{part}.{key}"
    for part in (*PART_OPTIONS, "training", "ema", "tracking", "paths")
    for key in CONFIG[part]
    if key not in ("_target_", "total_steps", "global_batch_size", "decays", "backend", "uri",
                   "experiment", "root")
)  # fmt: skip

READERS = (
    Reader("status", "status.json", STATUS, lambda at: read_status(RunFolder(at))),
    Reader("tracked", "tracking.json", {"name": "one", "tags": {"a": "b"}},
           lambda at: read_tracked(RunFolder(at))),
    Reader("identity", "identity.json", IDENTITY, lambda at: recorded(RunFolder(at)),
           names=("train_hash",)),
    Reader("header", "a.safetensors", HEADER, lambda at: read_exported(at / "a.safetensors"),
           names=("weights", "identity.train_hash"), loose=("config",), write=write_header),
    Reader("config", "config.yaml", CONFIG, lambda at: read_config(RunFolder(at)),
           names=("name",), loose=NOT_READ),
    Reader("composed", "config.yaml", CONFIG, lambda at: read_recorded(RunFolder(at)),
           loose=tuple(CONFIG.keys() - {"seed", "model", "training"})),
    Reader("lease", "lease", HOLDER, lambda at: read_holder(at / "lease"), ignores=True),
    Reader("holder", "lease", HOLDER, lambda at: holder_of(at / "lease"), ignores=True),
    Reader("metrics", "metrics.jsonl", ROW, lambda at: read_metrics(at / "metrics.jsonl"),
           ignores=True),
    Reader("last metrics", "metrics.jsonl", ROW, lambda at: last_metrics(at / "metrics.jsonl"),
           ignores=True),
    Reader("manifest", "manifest.json", SWEEP, lambda at: sweep(at).read(),
           names=("name", "jobs.0.run", "jobs.0.config_hash", "jobs.0.status"),
           loose=("settings.name",)),
    Reader("job", f"jobs/00-{HASH}/config.json", CONFIG, lambda at: sweep(at).read_config(JOB),
           names=("name",), loose=NOT_READ),
    Reader("result", f"jobs/00-{HASH}/result.json",
           {"evaluation": "a.json", "tracking_run_id": None}, lambda at: sweep(at).read_result(JOB),
           names=("evaluation",)),
    Reader("attempt", f"jobs/00-{HASH}/attempts/2.0.json",
           {"host": "here", "started": 1e9, "code": 0, "seconds": 1.0},
           lambda at: sweep(at).read_attempt(JOB, "2.0"), loose=("host",)),
    Reader("card", "card.json", CARD, lambda at: read_evaluation(at / "card.json"),
           loose=("findings", *(f"card.{key}" for key in (
               "objective", "sampler", "guidance", "metrics", "reference", "likelihood")))),
    Reader("bench", "bench.json",
           {"overrides": ["a=b"], "costs": {"loading": {"median": 1.0, "least": 1.0, "most": 1.0}}},
           lambda at: read_record(at / "bench.json")),
    Reader("latents", "latents.json",
           {**asdict(LATENTS), "fingerprint": LATENTS.fingerprint}, read_manifest,
           loose=("source",)),
    Reader("pairs", "pairs.json", asdict(PAIRS), read_pair_facts,
           loose=("sampler", "guidance")),
    Reader("expected", "expected.yaml", EXPECTED, read_expected),
    Reader("marker", "COMPLETE", {"model.safetensors": {"bytes": 1, "blake2b": "0"}},
           lambda at: Checkpoint(at)._listed()),
    Reader("scalars", "state.json", json.loads(
               (RECORDED / "checkpoints/step-00000004/state.json").read_text()),
           lambda at: Checkpoint(at).state(), loose=("emas.ema-0.999.decay",)),
    Reader("measured", "measured.json", {"evaluated_step": 4, "results": {"eval/loss": 1.0}},
           lambda at: Checkpoint(at)._scalars("measured.json", Measured)),
    Reader("reproduction", "reproduction.json",
           {"typed": [], "circumstances": {}, "seconds": 1.0, "finished": False},
           lambda at: ReproductionFolder(at).seconds, loose=("circumstances",)),
    Reader("transformer", "config.json", TRANSFORMER, architecture),
    Reader("pipeline", "model_index.json", {"lab": LAB}, architecture_of_pipeline),
    Reader("index", "a.safetensors.index.json", {"weight_map": {"a": "a.safetensors"}},
           lambda at: open_weights(at / "a.safetensors.index.json"), names=("weight_map.a",)),
    Reader("autoencoder", "config.json", AUTOENCODER, codec_facts.read_config,
           loose=("encoder_block_out_channels",)),
)  # fmt: skip
each_reader = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested values, the outer before the inner ones."""
    inner = value.items() if isinstance(value, dict) else ()
    for key, one in enumerate(value) if isinstance(value, list) else inner:
        yield (*at, key)
        yield from places(one, (*at, key))


def changed(whole: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place; `...` removes it."""
    result = copy.deepcopy(whole)
    inner = result
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return result


def refusal(reader: Reader, folder: Path) -> str | None:
    """What the reader says of the file, in one line and within the limits; None where it reads."""
    start = time.monotonic()
    try:
        reader.read(folder)
        said = None
    except (RequestError, DamagedCheckpoint) as refused:
        said = str(refused)
        # what is said while a configuration is composed is made printable where it is printed
        assert reader.name == "composed" or said.isprintable(), said
        assert "\n" not in said and len(said) < 1000, said
    assert time.monotonic() - start < SECONDS
    return said


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024


def made(reader: Reader, folder: Path) -> Path:
    file = folder / reader.file
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


@each_reader
def test_a_whole_one_is_read(reader: Reader, tmp_path: Path) -> None:
    reader.write(made(reader, tmp_path), reader.whole)
    said = refusal(reader, tmp_path)
    assert said is None or "missing, and" in said  # the index: its files are not here


CONTENTS = {
    "prose": b"half a page of prose\n\tand more: [",
    "a list": b"[]",
    "a word": b"true",
    "null": b"null",
    "bytes": b"\xff\xfe\x00\x01",
    "deep": b"[" * 10**5 + b"]" * 10**5,
    "less deep": b"[" * 400 + b"]" * 400,
    "deep keys": b'{"a":' * 400 + b"1" + b"}" * 400,
    "an integer": b"1" * 5000,
    "an integer within": b'{"step": ' + b"1" * 5000 + b', "metrics": {}}',
    "cut off": b'{"step": ',
    "NaN": b"NaN",
    "another record": b'{"\\u001b[31m": 1}',
}


@each_reader
@pytest.mark.parametrize("what", CONTENTS)
def test_what_is_no_record(reader: Reader, what: str, tmp_path: Path) -> None:
    file, content = made(reader, tmp_path), CONTENTS[what]
    if reader.file.endswith(".safetensors"):
        content = len(content).to_bytes(8, "little") + content
    file.write_bytes(content)
    said = refusal(reader, tmp_path)
    if reader.name == "pipeline" and what == "another record":
        assert said is None  # of a pipeline that is not the lab's
    else:
        assert (said is None) == reader.ignores


@each_reader
def test_what_is_no_file(reader: Reader, tmp_path: Path) -> None:
    file = made(reader, tmp_path)
    file.mkdir()
    for make in (lambda: None, lambda: (file.rmdir(), os.mkfifo(file))):
        make()
        said = refusal(reader, tmp_path)
        if reader.name == "lease":
            assert said is None
        elif reader.name != "pipeline":  # without it, the folder is one of a transformer
            assert said is not None


@each_reader
def test_one_of_a_terabyte(reader: Reader, tmp_path: Path) -> None:
    """Which takes no room on the disk."""
    file = made(reader, tmp_path)
    file.touch()
    os.truncate(file, 2**40)
    said = refusal(reader, tmp_path)
    assert (said is None) == (reader.name in ("lease", "holder", "last metrics"))


@each_reader
def test_every_value_in_turn(reader: Reader, tmp_path: Path) -> None:
    """Whatever stands at a place: one line, or a value of the declared type."""
    file, unrefused = made(reader, tmp_path), set()
    for place in places(reader.whole):
        name = ".".join(map(str, place))
        if any(name == loose or name.startswith(f"{loose}.") for loose in reader.loose):
            continue
        for value in (..., *WRONG):
            reader.write(file, changed(reader.whole, place, value))
            said = refusal(reader, tmp_path)
            if said is None and value is ODD:
                unrefused.add(name)
            if name in reader.names and value == "../../x":
                assert said is not None, f"{name}={value}"
    assert reader.ignores or unrefused == set()


def test_a_key_of_a_mapping_is_no_path(tmp_path: Path) -> None:
    for name in ("/etc/passwd", "../x", "a/../../x", "\n"):
        write_plain(tmp_path / "COMPLETE", {name: {"bytes": 1, "blake2b": "0"}})
        with pytest.raises(DamagedCheckpoint):
            Checkpoint(tmp_path).verify()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(20)
)


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]\n", "a: &a 1\nb: *a\n"])
def test_aliases_are_refused(text: str, tmp_path: Path) -> None:
    assert len(text) < 2000
    for file in ("config.yaml", "expected.yaml", "recipe.yaml"):
        (tmp_path / file).write_text(text)
    for read in (
        lambda: read_config(RunFolder(tmp_path)),
        lambda: read_recorded(RunFolder(tmp_path)),
        lambda: read_expected(tmp_path),
        lambda: load_recipe(tmp_path / "recipe.yaml"),
    ):
        with pytest.raises(RequestError, match="aliases, & and"):
            read()


@pytest.mark.parametrize("shape", [[2**13, 2**13, 2**13], [0, 8, 8], [1, 8], [1, 8, 8, 1]])
def test_shapes_are_bounded_before_there_is_a_tensor(shape: list[int], tmp_path: Path) -> None:
    write_plain(tmp_path / "identity.json", {**IDENTITY, "latent_shape": shape})
    write_plain(tmp_path / "pairs.json", {**asdict(PAIRS), "latent_shape": shape})
    write_header(tmp_path / "a.safetensors",
                 {**HEADER, "identity": {**IDENTITY, "latent_shape": shape}})  # fmt: skip
    with pytest.raises(RequestError, match="latent_shape"):
        recorded(RunFolder(tmp_path))
    with pytest.raises(RequestError, match="latent_shape"):
        recorded(RunFolder(tmp_path / "a.safetensors"))
    with pytest.raises(RequestError, match="latent_shape"):
        read_pair_facts(tmp_path)


def test_rows_that_are_none_are_left_out(tmp_path: Path) -> None:
    """As a torn one is: what is whole before and after them counts."""
    file, whole = tmp_path / "metrics.jsonl", json.dumps(ROW).encode()
    wrong = [{**ROW, **change} for change in (
        {"step": "1"}, {"step": 10**400}, {"step": True}, {"step": -1}, {"seconds": float("nan")},
        {"metrics": {"a": "b"}}, {"metrics": []}, {"metrics": {"a": None}}, {"more": 1},
    )]  # fmt: skip
    lines = [*(json.dumps(row).encode() for row in wrong), b"\xff", b"", b"[]", whole[:20]]
    file.write_bytes(b"\n".join([whole, *lines, whole, whole[:-2]]))
    assert [row.step for row in read_metrics(file)] == [1, 1]
    assert last_metrics(file) == ROW["metrics"]
    file.write_bytes(whole + b"\n" + b"x" * (LINE_BYTES + 1))
    with pytest.raises(RequestError, match="line 2 has more than"):
        read_metrics(file)


def test_jobs_have_the_numbers_of_their_places(tmp_path: Path) -> None:
    for numbers in ([1], [0, 0], [1, 0], [0, 2]):
        jobs = [{**asdict(JOB), "number": number} for number in numbers]
        write_plain(tmp_path / "manifest.json", {**SWEEP, "jobs": jobs})
        with pytest.raises(RequestError, match="jobs: expected jobs numbered from 0 on"):
            sweep(tmp_path).read()
    for run in ("runs", "runs/..", "runs/../../x", "/runs/x", "sweeps/x", "./runs/x", "runs//x"):
        write_plain(tmp_path / "manifest.json", {**SWEEP, "jobs": [{**asdict(JOB), "run": run}]})
        with pytest.raises(RequestError, match=r"jobs\.0\.run: expected a"):
            sweep(tmp_path).read()
    assert isinstance(Manifest(**{**SWEEP, "jobs": [JOB]}), Manifest)


@pytest.mark.parametrize(
    "weights", ["../../x", "/nowhere/escape", "a/b", "..", "", "model\n", "ema-\0", "state", 5]
)
def test_an_import_writes_where_it_was_told_to(weights: object, tmp_path: Path) -> None:
    from dit_lab.actions.import_weights import import_weights

    file = tmp_path / "in/a.safetensors"
    file.parent.mkdir()
    write_header(file, {**HEADER, "weights": weights})
    with pytest.raises(RequestError, match=r"a\.safetensors: .*damaged.*; fetch it again"):
        import_weights(file, tmp_path / "in/deep/made")
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.safetensors"]
    assert not Path("/nowhere").exists()
