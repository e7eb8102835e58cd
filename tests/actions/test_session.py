"""The training session: clean-up after errors, and notification of all hooks at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dit_lab.actions.session import StatusFile, told_how_it_ends, writing_to
from dit_lab.core.errors import RequestError, StopRequested
from dit_lab.core.types import Hook
from dit_lab.runs.folder import RunFolder, read_json, update_status
from dit_lab.runs.lock import Lease, read_holder


class Recorder(Hook):
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.ends: list[tuple[str, int, str | None]] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_end(self, *, status: str, step: int, error: str | None) -> None:
        self.ends.append((status, step, error.strip().splitlines()[-1] if error else None))


class Failing(Hook):
    def on_end(self, *, status: str, step: int, error: str | None) -> None:
        raise OSError("the tracker is gone")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder that does not exist, nor do its parents."""
    return RunFolder(tmp_path / "outputs/runs/mine/0123456789ab")


def enter(folder: RunFolder, display: Hook | None = None) -> AbstractContextManager[Lease]:
    return writing_to(folder, display=display or Recorder(), stopping=lambda: False)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# ---- the folder ---------------------------------------------------------------------------------


def test_the_folder_is_held_and_logged_to(folder: RunFolder) -> None:
    display = Recorder()
    with enter(folder, display):
        assert folder.checkpoints.is_dir()
        assert read_holder(folder.lease) is not None
        logging.getLogger("dit_lab.somewhere").warning("a warning")
        logging.getLogger("dit_lab.somewhere").info("a remark")
    assert display.messages == ["a warning"]
    assert ["a warning" in line or "a remark" in line for line in folder.log.open()] == [True, True]
    assert read_holder(folder.lease) is None
    logging.getLogger("dit_lab").warning("afterwards")
    assert "afterwards" not in folder.log.read_text()


def test_a_refusal_leaves_nothing_of_its_own_behind(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no"), enter(folder):
        folder.config.write_text("seed: 0\n")
        raise RequestError("no")
    assert files(tmp_path) == []


def test_a_refusal_touches_nothing_of_others(folder: RunFolder, tmp_path: Path) -> None:
    """Another training may have created its folder next to this one in the meantime."""
    other = folder.root.with_name("ffffffffffff")
    with pytest.raises(RequestError, match="no"), enter(folder):
        other.mkdir()
        (other / "config.yaml").write_text("seed: 1\n")
        raise RequestError("no")
    assert files(folder.root.parent) == ["ffffffffffff", "ffffffffffff/config.yaml"]


def test_a_run_that_was_there_stays(folder: RunFolder) -> None:
    folder.checkpoints.mkdir(parents=True)
    folder.config.write_text("seed: 0\n")
    with pytest.raises(RequestError, match="no"), enter(folder):
        raise RequestError("no")
    assert folder.config.exists()
    with Lease(folder.lease), pytest.raises(RequestError, match="writing here"), enter(folder):
        pass
    assert folder.config.exists()


def test_a_run_that_others_know_of_stays(folder: RunFolder) -> None:
    with pytest.raises(RequestError, match="no"), enter(folder):
        update_status(folder, status="RUNNING")
        raise RequestError("no")
    assert folder.status.exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file/runs/mine/0123456789ab")
    with pytest.raises(RequestError, match=r"cannot be created \(Not a directory\)"), enter(folder):
        pass


# ---- how it ends --------------------------------------------------------------------------------


@pytest.fixture
def status(folder: RunFolder) -> Iterator[StatusFile]:
    folder.root.mkdir(parents=True)
    with Lease(folder.lease) as lease:
        status = StatusFile(folder, lease)
        status.on_start(first_step=3, total_steps=8)
        status.on_step(4)
        yield status


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ("FINISHED", 4, None)),
        (StopRequested(15), ("KILLED", 4, None)),
        (KeyboardInterrupt(), ("KILLED", 4, None)),
        (RequestError("no room"), ("FAILED", 4, "no room")),
        (ZeroDivisionError("by zero"), ("FAILED", 4, "ZeroDivisionError: by zero")),
        (MemoryError(), ("FAILED", 4, "MemoryError")),
    ],
)
def test_everybody_is_told_once_even_where_one_cannot_listen(
    error: BaseException | None,
    expected: tuple[str, int, str | None],
    status: StatusFile,
    folder: RunFolder,
) -> None:
    recorder = Recorder()
    hooks = [Failing(), status, recorder]
    if error is None:
        with told_how_it_ends(hooks, status):
            pass
    else:
        with pytest.raises(type(error)) as raised, told_how_it_ends(hooks, status):
            raise error
        assert raised.value is error
    assert recorder.ends == [expected]
    found = read_json(folder.status)
    assert (found["status"], found["step"], found["error"]) == expected


def test_a_second_ctrl_c_hides_from_nobody_how_it_ended(
    status: StatusFile, folder: RunFolder
) -> None:
    """It interrupts the current hook, such as a tracker that waits for its server."""

    class Waiting(Hook):
        def on_end(self, *, status: str, step: int, error: str | None) -> None:
            raise KeyboardInterrupt

    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt), told_how_it_ends([Waiting(), status, recorder], status):
        raise StopRequested(2)
    assert recorder.ends == [("KILLED", 4, None)]
    assert read_json(folder.status)["status"] == "KILLED"


def test_a_refusal_before_anybody_knew_is_no_ending(tmp_path: Path) -> None:
    recorder, folder = Recorder(), RunFolder(tmp_path)
    with Lease(folder.lease) as lease:
        status = StatusFile(folder, lease)
        with pytest.raises(RequestError), told_how_it_ends([status, recorder], status):
            raise RequestError("no")
    assert recorder.ends == []
    assert files(tmp_path) == ["lease"]


def test_a_status_that_cannot_be_written_stops_nothing(
    status: StatusFile, folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    metrics: Mapping[str, float] = {"train/loss": 1.0}
    folder.status.unlink()
    folder.status.mkdir()  # so that not even root can write there
    status.on_metrics(5, metrics)
    status.on_end(status="FINISHED", step=5, error=None)
    assert "status.json: cannot be written" in caplog.text
