"""`describe`, `experiments`, `ui`, `--cfg job`, `python train.py` and documented code."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dit_lab.cli import ui
from dit_lab.config.compose import compose_train
from dit_lab.config.objects import to_tree

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]
NANO = ["experiment=quickstart", "model=nano", "training.total_steps=1200"]


def test_describe_gives_exact_parameters_and_the_budget(command: Command) -> None:
    done = command("describe", *NANO, "--flops-per-second", "1e11")
    assert done.returncode == 0, done.stderr
    assert "1,868,036 (1,865,988 trainable)" in done.stdout
    assert "1 x 8 x 8, 16 tokens" in done.stdout
    assert "1,200 steps of 128 images, 106.9 epochs" in done.stdout
    # 0.1197 GFLOP x 128 images x 1200 steps = 1.84e13 FLOP at 1e11 FLOP/s
    assert "at least 3 min 04 s at 100 GFLOP/s (given" in done.stdout


def test_describe_on_several_devices(forked: Command) -> None:
    options = ["--flops-per-second", "1e11", "--utilisation", "0.4", "--devices", "4"]
    done = forked("describe", *NANO, *options, "--price-per-device-hour", "2.5")
    assert done.returncode == 0, done.stderr
    rows = ("memory (one device)", "memory (DDP, 4 devices)", "memory (FSDP, 4 devices)", "sent")
    lines = done.stdout.splitlines()
    for row in rows:
        assert any(line.startswith(row) for line in lines), row
    said = " ".join(done.stdout.split())
    # Float32: 8 x 1,865,988 bytes of gradients x 3/4; FSDP gathers the blocks twice besides.
    assert "0.0112 GB (DDP)" in said
    # 1.84e13 FLOP at 0.4 x 1e11 on each of 4; all of them together 460 s.
    assert "about 1 min 55 s at 0.4 of 100 GFLOP/s on each of 4 devices (given)" in said
    assert "cost about 0.32: 0.13 device hours at 2.5" in said


def test_cfg_job_prints_what_is_composed(
    forked: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = forked("train", "--cfg", "job", "experiment=quickstart", "seed=3")
    assert done.returncode == 0
    monkeypatch.chdir(tmp_path)
    shown = yaml.safe_load(done.stdout)
    assert shown.pop("sweep").keys() >= {"slots", "jobs_per_slot"}  # for -m, and for no run
    assert shown == to_tree(compose_train(["experiment=quickstart", "seed=3"]))
    assert list(tmp_path.iterdir()) == []


def test_train_py_is_dit_lab_train(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py")], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("dit-lab: ")
    assert "train_labels.txt" in done.stderr


def test_the_installed_command_finds_modules_where_it_is_typed(tmp_path: Path) -> None:
    """Unlike `python -m`, it does not look into the current folder by itself."""
    (tmp_path / "mylab.py").write_text("")
    installed = Path(sys.executable).with_name("dit-lab")
    arguments = ["train", "experiment=quickstart", "training.total_steps=1", "sampler.steps=1"]
    arguments += ["evaluation.num_images=0"]
    done = subprocess.run(
        [installed, *arguments, "tracking=none", "trusted_modules=[mylab]"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_ui_serves_the_page_on_loopback_only(
    forked: Command,
    start: Callable[..., subprocess.Popen[str]],
    store_in: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    store_in(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start("ui", "--port", str(port))
    assert process.stdout is not None
    said = next(line for line in process.stdout if "/runs?workflowType=machine_learning" in line)
    assert said.startswith(f"  none: http://127.0.0.1:{port}/#/experiments/")
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).read().decode()
    assert "MLflow" in page
    listening = Path("/proc/net/tcp").read_text()
    addresses = re.findall(rf"\d+: ([0-9A-F]{{8}}):{port:04X} 00000000:0000 0A", listening)
    assert addresses == ["0100007F"]  # 127.0.0.1, and no other address
    taken = forked("ui", "--port", str(port))
    assert taken.returncode == 2
    assert f"--port {port}: taken" in taken.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0  # nothing listens any more


@pytest.mark.parametrize(
    ("program", "seconds", "said"),
    [
        ("raise SystemExit(3)", 60, "ended with exit code 3 before it answered"),
        ("import time; time.sleep(60)", 0.5, "has not answered in 0 s and is ended"),
    ],
)
def test_a_server_that_does_not_answer_is_said_to(
    program: str, seconds: float, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(ui, "ANSWER_SECONDS", seconds)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        command = [sys.executable, "-c", program]
        assert ui._serve(command, os.environ, uri="sqlite:////none", address=address) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert "MLflow page" not in printed.out


def test_the_documented_code_runs() -> None:
    from dit_lab.models.dit import DiT

    text = (ROOT / "docs/objectives-and-samplers.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    model = DiT(
        input_size=(8, 8), patch_size=2, in_channels=1, hidden_size=16, depth=1, num_heads=2,
        num_classes=10, learn_sigma=False,
    )  # fmt: skip
    names = {"model": model}
    exec(code, names)
    assert names["images"].shape == (3, 1, 8, 8)
