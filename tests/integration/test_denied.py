"""A tracking server that denies access: no files are left, and no password is shown."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]


class Denies(BaseHTTPRequestHandler):
    """Answers everything with 401."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Denies) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("axes", [(), ("-m", "seed=0,1")])
def test_nothing_is_left(
    axes: tuple[str, ...], address: str, tmp_path: Path, forked_in: Command, tiny: list[str]
) -> None:
    done = forked_in(tmp_path, "train", *axes, *tiny, "tracking=mlflow", f"tracking.uri={address}")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"dit-lab: tracking.uri={address}: cannot be used: ")
    assert "401" in line
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays(
    address: str, tmp_path: Path, forked_in: Command, tiny: list[str]
) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "notes.txt").write_text("mine")
    arguments = [*tiny, "tracking=mlflow", f"tracking.uri={address}"]
    assert forked_in(tmp_path, "train", "-m", "seed=0,1", *arguments).returncode == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["outputs", "notes.txt"]
