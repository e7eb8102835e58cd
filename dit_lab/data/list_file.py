"""Lists of labelled images and lists of class names: reading and checking. Torch-free.

A list has one image per line, `image_path class_id`. The class id is the last field, so paths may
contain spaces. Blank lines and lines that begin with `#` are skipped; UTF-8, with LF, CRLF or CR.
Paths are relative to `images/`, with or without that prefix, and may not leave that folder unless
this is allowed.

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
_MAX_DIGITS = 6  # of a class id; larger ids are taken for mistakes
_SPACE, _NEWLINE, _HASH, _SLASH, _ZERO = b" \n#/0"
_SIGNS_OF_LEAVING = (b"..", b"\\", b":", b"\0")  # a leading "/" is not a plain row either
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class ImageList:
    """A checked list, stored as bytes and offsets: ImageNet takes 85 MB."""

    data: bytes
    starts: np.ndarray  # (N,) int64, start of each path in `data`
    stops: np.ndarray  # (N,) int64, end of each path
    class_ids: np.ndarray  # (N,) int64
    lines: np.ndarray  # (N,) int64, line numbers from 1

    def __len__(self) -> int:
        return len(self.class_ids)

    def path(self, index: int) -> str:
        """Return the path of one image, as written in the list."""
        return self.data[self.starts[index] : self.stops[index]].decode()

    def paths(self) -> Iterator[bytes]:
        """Yield all paths, as written in the list."""
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield self.data[start:stop]


def read_list(file: Path, *, allow_outside: bool = False) -> ImageList:
    """Read and check one list.

    Args:
        file: the list.
        allow_outside: whether paths may be absolute or leave `images/`.

    Raises:
        RequestError: for all bad lines together, or if the list is empty.
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
    for row in np.flatnonzero(~plain).tolist():  # usually few or none
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
    """Return the file of a listed path, relative to `images`, whose name may prefix the path.

    Backslashes are read as separators unless a file of that exact name exists.
    """
    if "\\" in written and not os.path.lexists(images / written):
        written = written.replace("\\", "/")
    parts = PurePosixPath(written).parts
    if parts[0] == IMAGES_FOLDER and len(parts) > 1 and not (images / IMAGES_FOLDER).exists():
        parts = parts[1:]
    return images.joinpath(*parts)


def read_class_names(file: Path) -> tuple[str, ...]:
    """Return one name per line, in the order of class ids. Names may repeat, as in ImageNet."""
    lines = [line.strip() for line in _read_utf8(file).decode().rstrip().split("\n")]
    refuse(file, [(number, "no name") for number, line in enumerate(lines, 1) if not line])
    return tuple(lines)


def refuse(file: Path, problems: list[tuple[int, str]]) -> None:
    """Raise a `RequestError` that shows the first problems (line, text) and counts the others."""
    if not problems:
        return
    shown = "; ".join(f"line {line}: {text}" for line, text in problems[:_SHOWN_PROBLEMS])
    rest = len(problems) - _SHOWN_PROBLEMS
    raise RequestError(f"{file}: {shown}" + (f"; and {rest} more" if rest > 0 else ""))


def _read_utf8(file: Path) -> bytes:
    """Return a file's bytes without byte order mark, with LF line ends; refuse non-UTF-8."""
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
    """Parse all rows of the form `path SPACE digits` at once.

    ImageNet's 1,281,167 lines take 0.35 s and 154 MB; splitting line by line takes 1.0 s and 375
    MB. Every process reads the lists twice at its start.

    Returns arrays of shape (R,): whether a row is plain, where its path ends, and its class id.
    """
    spaces = np.concatenate(([-1], np.flatnonzero(text == _SPACE)))
    stops = spaces[np.searchsorted(spaces, ends) - 1]  # (R,) the last space before the line end
    digits = ends - stops - 1
    plain = (stops > starts) & (digits >= 1) & (digits <= _MAX_DIGITS)
    first, last = text[starts], text[np.maximum(stops, 1) - 1]  # bytes of the path
    plain &= (first > _SPACE) & (first != _HASH) & (first != _SLASH) & (last > _SPACE)

    class_ids = np.zeros(len(starts), np.int64)
    for place in range(_MAX_DIGITS, 0, -1):  # from the highest digit to the last
        rows = np.flatnonzero(plain & (digits >= place))
        digit = text[ends[rows] - place].astype(np.int64) - _ZERO
        class_ids[rows] = class_ids[rows] * 10 + digit
        plain[rows] = (digit >= 0) & (digit <= 9)
    return plain, stops, class_ids


def _read_row(row: bytes, *, allow_outside: bool) -> tuple[bytes, int] | None:
    """Return (path, class id) of a row, None for a blank or comment; ValueError for a bad row."""
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
