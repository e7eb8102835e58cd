"""Console output of a run, on a pseudo-terminal and through a pipe, with real signals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from dit_lab.tracking.console import duration, findings

# A loop as the trainer's: reports, messages, and the end in a `finally`.
RUN = """
import signal, sys, time
from dit_lab.tracking.console import make_display
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
steps = int(sys.argv[1])
display = make_display("tiny [run]")
display.on_start(first_step=100, total_steps=100 + steps)
status = "FINISHED"
try:
    for step in range(101, 101 + steps):
        display.on_step(step)
        if step % 10 == 0:
            display.on_metrics(step, {
                "train/loss": 1 / step, "perf/images_per_second": 250.0, "nonfinite/train/x": 1.0
            })
        if step == 105:
            display.on_message("saved [bold]step-105[/bold]")
        if step == 120:
            display.on_metrics(step, {"eval/frechet": 12.345678, "eval/kid": 0.5})
        if steps > 20:
            time.sleep(0.05)
except KeyboardInterrupt:
    status = "KILLED"
finally:
    display.on_end(status=status, step=step, error=None)
    display.on_end(status=status, step=step, error=None)
print("ended", status, file=sys.stderr, flush=True)
"""
COMMAND = [sys.executable, "-c", RUN]
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def read_all(terminal: int) -> str:
    """Everything until the other end is closed."""
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how Linux reports the end of a pseudo-terminal
            part = b""
        if not part:
            return shown.decode()
        shown += part


def start_on_terminal(steps: int) -> tuple[subprocess.Popen[str], int]:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [*COMMAND, str(steps)],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    os.close(theirs)
    return process, ours


def test_plain_lines_through_a_pipe() -> None:
    done = subprocess.run([*COMMAND, "20"], capture_output=True, text=True, check=True)
    first, *lines = done.stdout.splitlines()
    assert first == "step 101/120  0.0 s for the first step"
    assert lines[0] == "saved [bold]step-105[/bold]"
    assert lines[1].startswith("step 110/120  loss 0.0091  250.0 images/s  ")
    assert lines[1].endswith(" s left")
    assert lines[2].startswith("step 120/120  loss 0.0083  250.0 images/s  0 s left")
    assert lines[3:] == ["step 120/120  eval/frechet 12.346  eval/kid 0.5"]
    assert done.stdout.replace("\n", "").isprintable()


def test_a_live_line_on_a_terminal() -> None:
    process, terminal = start_on_terminal(20)
    shown = read_all(terminal)
    assert process.wait() == 0
    assert "tiny [run]" in shown
    assert "120/120" in shown
    assert "loss 0.0083" in shown
    assert "250.0 images/s" in shown
    assert "saved [bold]step-105[/bold]\r\n" in shown
    assert "eval/frechet 12.346" in shown
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)


def test_ctrl_c_gives_the_terminal_back() -> None:
    process, terminal = start_on_terminal(10_000)
    shown = ""
    while HIDE_CURSOR not in shown or "saved" not in shown:
        shown += os.read(terminal, 65536).decode()
    process.send_signal(signal.SIGINT)
    shown += read_all(terminal)
    assert process.wait() == 0
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
    assert process.stderr is not None
    assert process.stderr.read() == "ended KILLED\n"


def test_a_lost_terminal_does_not_stop_the_run() -> None:
    process, terminal = start_on_terminal(40)
    os.read(terminal, 1)
    os.close(terminal)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.endswith("ended FINISHED\n")


def test_a_closed_pipe_does_not_stop_the_run() -> None:
    process = subprocess.Popen(
        [*COMMAND, "40"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == "ended FINISHED\n"
    assert process.wait() == 0


def test_a_pipe_is_served_without_importing_rich() -> None:
    code = (
        "import sys; from dit_lab.tracking.console import make_display; make_display('run')\n"
        "assert not {'rich', 'torch', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (11_220, "3 h 07 min"),
        (187_200, "2 d 04 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_findings_leave_out_what_the_progress_shows() -> None:
    assert findings({"train/loss": 1.0, "perf/mfu": 0.4}) == ""
    assert findings({"train/loss": 1.0, "eval/kid": 1e-5}) == "eval/kid 1e-05"


@pytest.mark.parametrize("seen", ["pixels", "classifier"])
def test_of_a_whole_table_only_what_leads_is_shown(seen: str) -> None:
    """And how many numbers more there are; the table itself comes at the end."""
    names = (f"two_sample_{seen}_n40", f"two_sample_{seen}_held_out_n40",
             f"recall_{seen}_held_out_n40", f"distance_ratio_{seen}_n120",
             f"fd_{seen}_n2048")  # fmt: skip
    table = {f"eval/{name}": 0.5 for name in names}
    assert findings(table | {"train/loss": 1.0}) == (
        f"eval/two_sample_{seen}_held_out_n40 0.5  eval/recall_{seen}_held_out_n40 0.5  "
        f"eval/distance_ratio_{seen}_n120 0.5  and 2 more"
    )
    few = dict(list(table.items())[:4])
    assert findings(few) == "  ".join(f"{name} 0.5" for name in few)
