"""Lists of labelled images and the names of their classes: read whole, checked, torch-free.

A list has one image per line, `image_path class_id`. The class id is the last field, so paths may
hold spaces. Blank lines and lines that begin with `#` are skipped; UTF-8, with LF, CRLF or CR.
Paths are relative to `images/`, with or without that name in front, and may not climb out of their
folder, unless that is allowed.

Shapes: N images, R rows (lines).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from dit_lab.core.errors import RequestError

TRAIN_LIST = "train_labels.txt"
VALIDATION_LIST = "val_labels.txt"
CLASS_NAMES = "class_names.txt"
IMAGES_FOLDER = "images"
MAX_LIST_BYTES = 16 * 2**30  # 200 million images

_SHOWN_PROBLEMS = 10
_MAX_DIGITS = 6  # of a class id; a million classes are a mistake in the list
_SPACE, _NEWLINE, _HASH, _SLASH, _ZERO = b" \n#/0"
_SIGNS_OF_LEAVING = (b"..", b"\\", b":", b"\0")  # besides "/" in front, which is no plain row
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class ImageList:
    """A checked list, held as bytes and offsets: ImageNet takes 85 MB, not a million strings."""

    data: bytes
    starts: np.ndarray  # (N,) int64, where each path begins in `data`
    stops: np.ndarray  # (N,) int64, and where it ends
    class_ids: np.ndarray  # (N,) int64
    lines: np.ndarray  # (N,) int64, counted from 1

    def __len__(self) -> int:
        return len(self.class_ids)

    def path(self, index: int) -> str:
        """The path of one image, as written."""
        return self.data[self.starts[index] : self.stops[index]].decode()

    def paths(self) -> Iterator[bytes]:
        """All paths as they are written."""
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield self.data[start:stop]


def read_list(file: Path, *, allow_outside: bool = False) -> ImageList:
    """Read and check one list. All bad lines are reported together, in one `RequestError`.

    With `allow_outside`, paths may be absolute or climb out of their folder.
    """
    data = _read_utf8(file)
    if not data.endswith(b"\n"):
        data += b"\n"
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == _NEWLINE)  # (R,)
    starts = np.concatenate(([0], ends[:-1] + 1))  # (R,)
    plain, stops, class_ids = _read_plain_rows(text, starts, ends)
    if any(sign in data for sign in _SIGNS_OF_LEAVING):
        plain[:] = False

    keep, problems = plain.copy(), []
    for row in np.flatnonzero(~plain).tolist():  # few or none, as a rule
        content = data[starts[row] : ends[row]]
        try:
            entry = _read_row(content, allow_outside=allow_outside)
        except ValueError as error:
            problems.append((row + 1, str(error)))
            continue
        if entry is not None:
            path, class_id = entry
            starts[row] += content.index(path)
            stops[row] = starts[row] + len(path)
            class_ids[row], keep[row] = class_id, True
    refuse(file, problems)
    if not keep.any():
        raise RequestError(f"{file}: lists no images; write one `image_path class_id` per line")
    lines = np.flatnonzero(keep) + 1
    return ImageList(data, starts[keep], stops[keep], class_ids[keep], lines)


def file_of(images: Path, written: str) -> Path:
    """The file that a path in a list means: below `images`, whose name may stand in front, with
    the separators of Windows or others."""
    if "\\" in written and not os.path.lexists(images / written):
        written = written.replace("\\", "/")
    parts = PurePosixPath(written).parts
    if parts[0] == IMAGES_FOLDER and len(parts) > 1 and not (images / IMAGES_FOLDER).exists():
        parts = parts[1:]
    return images.joinpath(*parts)


def read_class_names(file: Path) -> tuple[str, ...]:
    """One name per line, in the order of the class ids. Names may repeat, as ImageNet's do."""
    lines = [line.strip() for line in _read_utf8(file).decode().rstrip().split("\n")]
    refuse(file, [(number, "no name") for number, line in enumerate(lines, 1) if not line])
    return tuple(lines)


def refuse(file: Path, problems: list[tuple[int, str]]) -> None:
    """Raise one `RequestError` that shows the first problems (line, text) and counts the rest."""
    if not problems:
        return
    shown = "; ".join(f"line {line}: {text}" for line, text in problems[:_SHOWN_PROBLEMS])
    rest = len(problems) - _SHOWN_PROBLEMS
    raise RequestError(f"{file}: {shown}" + (f"; and {rest} more" if rest > 0 else ""))


def _read_utf8(file: Path) -> bytes:
    """The file's bytes without byte order mark and with LF for every line end; refused if not
    UTF-8."""
    data = file.read_bytes()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RequestError(f"{file}: line {line}: not UTF-8; save the list as UTF-8") from None
    return data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _read_plain_rows(
    text: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the rows `path SPACE digits` at once.

    ImageNet's 1,281,167 lines take 0.35 s and 154 MB, where splitting one line after the other
    takes 1.0 s and 375 MB. Every process reads them twice at its start.

    Returns (R,) arrays: which rows are plain, where their paths end, and their class ids.
    """
    spaces = np.concatenate(([-1], np.flatnonzero(text == _SPACE)))
    stops = spaces[np.searchsorted(spaces, ends) - 1]  # (R,) the last space before the line end
    digits = ends - stops - 1
    plain = (stops > starts) & (digits >= 1) & (digits <= _MAX_DIGITS)
    first, last = text[starts], text[np.maximum(stops, 1) - 1]  # of the path
    plain &= (first > _SPACE) & (first != _HASH) & (first != _SLASH) & (last > _SPACE)

    class_ids = np.zeros(len(starts), np.int64)
    for place in range(_MAX_DIGITS, 0, -1):  # from the highest digit to the last
        rows = np.flatnonzero(plain & (digits >= place))
        digit = text[ends[rows] - place].astype(np.int64) - _ZERO
        class_ids[rows] = class_ids[rows] * 10 + digit
        plain[rows] = (digit >= 0) & (digit <= 9)
    return plain, stops, class_ids


def _read_row(row: bytes, *, allow_outside: bool) -> tuple[bytes, int] | None:
    """(path, class id) of any row, None for a blank or a comment, ValueError for a bad one."""
    fields = row.rsplit(None, 1)
    if not fields or row.lstrip().startswith(b"#"):
        return None
    if len(fields) == 1:
        raise ValueError(f"expected `image_path class_id`, found {row.decode().strip()!r}")
    path, class_id = fields[0].lstrip(), fields[1]
    if not class_id.isdigit() or len(class_id) > _MAX_DIGITS:
        largest = 10**_MAX_DIGITS - 1
        raise ValueError(f"class id {class_id.decode()!r} is not a number from 0 to {largest}")
    name = path.decode()
    if "\0" in name:
        raise ValueError(f"path {name!r} holds a zero byte")
    parts = PurePosixPath(name.replace("\\", "/"))
    leaves = parts.is_absolute() or ".." in parts.parts or _DRIVE.match(name)
    if leaves and not allow_outside:
        raise ValueError(
            f"path {name!r} leaves {IMAGES_FOLDER}/; write it relative to that folder, or "
            "give dataset.allow_outside=true"
        )
    return path, int(class_id)
