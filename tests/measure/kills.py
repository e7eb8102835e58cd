"""Training that is killed repeatedly: does the same command always resume to the same bits?

    python -m tests.measure.kills --kills 50

For each kind of training, a command is started, one of its processes is killed (SIGKILL) at a
random time, and the command is repeated until it finishes. Checkpoints are saved every other step,
so many kills interrupt a save. After every kill, each complete checkpoint must still be complete,
unless a save has replaced it by as many newer ones as it keeps, and the next start must resume from
the newest or a later one. One kind is killed only in its last phase: after its last step, while
samples are drawn and evaluated. At the end, parameters, EMA, optimizer state, logged rows, results
and status are compared bit by bit with an undisturbed training. Prints the table of docs/scale.md.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dit_lab.runs.folder import RunFolder, read_status
from dit_lab.runs.metrics import read_metrics
from dit_lab.training.checkpoint import Checkpoint, DamagedCheckpoint

KEPT = 5  # newest checkpoints that a save leaves; those before may be removed
TRAINING = [
    "train", "dataset=digits", "codec=identity", "model=nano", "objective=rectified_flow",
    "precision=fp32", "name=killed", "ema.decays=[0.9,0.99]", "training.total_steps=120",
    "training.global_batch_size=16", "training.log_every_steps=4",
    "training.checkpoint_every_steps=2", f"training.keep_last={KEPT}",
    "training.validate_every_steps=20",
    "evaluation.loss_images=64", "evaluation.num_images=0", "sampler.steps=2",
    "sample.num_images=10", "tracking=none",
]  # fmt: skip
TWO = ["distributed.num_processes=2"]
LAST_STEP = 6
MEASURED = [f"training.total_steps={LAST_STEP}", "evaluation.num_images=360", "metric=[two_sample]"]
LAST_PHASE = "one process, after its last step"
WAYS = {
    "one process": [],
    LAST_PHASE: MEASURED,
    "two processes, one killed": TWO,
    "two processes with shards, one killed": [*TWO, "distributed=fsdp"],
}


@dataclass
class Result:
    """Results of one kind of training."""

    kills: Counter[str] = field(default_factory=Counter)  # by what the training was doing
    lost: int = 0  # checkpoints that were whole before a kill and not after it
    earlier: int = 0  # starts that went on from before the newest whole checkpoint
    same: bool = False


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    with open(folder / "printed", "ab") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", "dit_lab", *TRAINING, *arguments],
            cwd=folder,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_folder(folder: Path) -> Path | None:
    return next(folder.glob("outputs/runs/killed/*"), None)


def whole(folder: Path) -> dict[int, Checkpoint]:
    """Return the checkpoints that match their markers."""
    found = {}
    run = run_folder(folder)
    for path in sorted(run.glob("checkpoints/step-*")) if run else []:
        checkpoint = Checkpoint(path)
        with suppress(DamagedCheckpoint, OSError):
            checkpoint.verify()
            found[checkpoint.step] = checkpoint
    return found


def doing(folder: Path, arguments: list[str]) -> str:
    """Return the phase of the training, from the files in its folder."""
    run = run_folder(folder)
    if run is None or not (run / "metrics.jsonl").exists():
        return "starting"
    writing = any(run.glob("checkpoints/.writing-*")) or any(run.glob("checkpoints/.removing-*"))
    if arguments == MEASURED and trained(folder) == LAST_STEP:
        return "measuring"
    return "saving" if writing else "training"


def victims(process: subprocess.Popen[bytes], arguments: list[str]) -> list[int]:
    """Return the process itself, or the workers that it has started."""
    if TWO[0] not in arguments:
        return [process.pid]
    with suppress(OSError):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return [int(number) for number in children.split()]
    return []


def trained(folder: Path) -> int:
    """Return the newest step of any checkpoint."""
    run = run_folder(folder)
    found = run.glob("checkpoints/step-*") if run else []
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)


def kill_once(folder: Path, arguments: list[str], result: Result, seconds: float) -> bool:
    """Start, kill `seconds` after the first save, and check what is left.

    Returns False if the training ended first.
    """
    before, starts = trained(folder), len(resumed_from(folder))
    process = start(folder, arguments)

    def is_under_way() -> bool:
        if arguments != MEASURED:
            return trained(folder) > before
        return len(resumed_from(folder)) > starts or (
            before < LAST_STEP and LAST_STEP in whole(folder)
        )

    while process.poll() is None and not is_under_way():
        time.sleep(0.005)
    time.sleep(seconds)
    found = victims(process, arguments)
    if process.poll() is not None or not found:
        process.wait()
        return False
    at, known = doing(folder, arguments), set(whole(folder))
    try:
        os.kill(random.choice(found), signal.SIGKILL)
    except ProcessLookupError:  # it has just ended
        process.wait()
        return False
    result.kills[at] += 1
    process.wait()
    left = set(whole(folder))
    # Training went on while `known` was read, and what it then removed is not lost.
    lost = [step for step in known - left if sum(newer > step for newer in left) < KEPT]
    if lost:
        print(f"lost {sorted(lost)}: {sorted(known)} were whole before, {sorted(left)} after")
    result.lost += len(lost)
    return True


def resumed_from(folder: Path) -> list[int]:
    """Return the steps from which starts resumed."""
    printed = folder / "printed"
    lines = printed.read_text(errors="replace").splitlines() if printed.exists() else []
    return [int(line.split()[-1]) for line in lines if line.startswith("resumed at step ")]


def final(folder: Path) -> tuple[dict[str, bytes], list[object], object]:
    """Return the last checkpoint's files, the logged rows without times, and the status."""
    run = run_folder(folder)
    assert run is not None
    last = max(run.glob("checkpoints/step-*"))
    files = {str(p.relative_to(last)): p.read_bytes() for p in last.rglob("*") if p.is_file()}
    rows: list[object] = [
        (row.step, {k: v for k, v in row.metrics.items() if not k.startswith(("perf/", "system/"))})
        for row in read_metrics(run / "metrics.jsonl")
    ]
    end = read_status(RunFolder(run))
    return files, rows, (end["status"], end["step"], end["error"], end["results"])


def straight(folder: Path, arguments: list[str]) -> float:
    """Train without kills and return the step time."""
    process = start(folder, arguments)
    while trained(folder) < (LAST_STEP if arguments == MEASURED else 1):
        assert process.poll() is None, (folder / "printed").read_text()
        time.sleep(0.005)
    begun = time.monotonic()
    assert process.wait() == 0
    return time.monotonic() - begun


def measure(way: str, kills: int, root: Path) -> Result:
    arguments, result = WAYS[way], Result()
    expected_in = root / "straight"
    expected_in.mkdir(parents=True)
    duration = straight(expected_in, arguments)
    rounds = 0
    result.same = True
    while result.kills.total() < kills:
        folder = root / f"round-{rounds}"
        folder.mkdir()
        rounds += 1
        while result.kills.total() < kills:
            newest = max(whole(folder), default=0)
            # Some steps are made between two kills, so that a round comes to its end.
            share = 1 if way == LAST_PHASE else 4
            if not kill_once(folder, arguments, result, random.uniform(0, duration / share)):
                break
            seen = resumed_from(folder)
            result.earlier += bool(newest and (not seen or seen[-1] < newest))
        process = start(folder, arguments)
        assert process.wait() == 0, (folder / "printed").read_text()
        result.same = result.same and final(folder) == final(expected_in)
        found = f"lost {result.lost}, earlier {result.earlier}, same {result.same}"
        print(f"{way}: {dict(result.kills)}, {rounds} trainings, {found}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    random.seed(args.seed)
    rows = []
    for way in args.ways:
        with tempfile.TemporaryDirectory() as root:
            found = measure(way, args.kills, Path(root))
        at = ", ".join(f"{count} while {name}" for name, count in found.kills.most_common())
        same = "the same" if found.same else "OTHERS"
        rows.append(
            f"| {way} | {found.kills.total()}: {at} | {found.lost} | {found.earlier} | {same} |"
        )
    print("| | kills | lost checkpoints | starts from an earlier one | final bits |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
