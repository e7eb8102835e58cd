"""File reading: size limits, no blocking, and plain values only."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dit_lab.core.errors import RequestError
from dit_lab.core.files import MOST_DEPTH, RECORD_BYTES, parse_json, read_within, refuse_unplain


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (tmp_path, "is a folder, not a file"),
        (tmp_path / "pipe", "is a device or a pipe, not a file"),
        (Path("/dev/zero"), "is a device or a pipe, not a file"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (tmp_path / "a\0b", "cannot be read"),
    ):
        with pytest.raises(RequestError, match=says):
            read_within(path)
    with pytest.raises(FileNotFoundError):
        read_within(tmp_path / "nowhere")


def test_a_limit_is_compared_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    path.touch()
    os.truncate(path, 2**33)
    with pytest.raises(RequestError, match="has more than the 16,777,216 bytes"):
        read_within(path)
    path.write_bytes(b"abc")
    assert read_within(path, limit=3) == b"abc"
    with pytest.raises(RequestError, match="has more than the 2 bytes"):
        read_within(path, limit=2)
    with pytest.raises(RequestError, match="has more than"):
        read_within(Path("/proc/self/status"), limit=5)  # which says that it has 0
    assert RECORD_BYTES == 2**24


@pytest.mark.parametrize(
    "text",
    [
        "", "{", b"\xff", "[" * 10**6, "[" * (MOST_DEPTH + 2) + "]" * (MOST_DEPTH + 2),
        "1" * 5000, str(2**64), '"\\ud800"', '{"\\u0000": 1}', '"a\\u0000b"',
    ],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_json_that_no_record_has(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_json(text.encode() if isinstance(text, str) else text)
    assert "\n" not in str(refused.value)


def test_plain_values_are_read_as_they_are() -> None:
    values = {"ä": [1, 2.5, None, True, "\u202e", -(2**64) + 1], "deep": {}}
    for _ in range(MOST_DEPTH - 2):
        values["deep"] = [values["deep"]]
    assert parse_json(json.dumps(values).encode()) == values
    for value in ({1: 2}, {"a"}, b"x", {"a": (1,)}):
        with pytest.raises(ValueError, match=r"plain value|not text"):
            refuse_unplain(value)
