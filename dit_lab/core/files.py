"""Safe reading of files that others may have made, and atomic writing of files for others.

Files are read whole, within a size limit, as plain values. The limit is compared with the size of
the file before it is read. Only regular files are opened, and opening a FIFO never blocks.
Torch-free.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from dit_lab.core.errors import RequestError

RECORD_BYTES = 16 * 2**20
"""Size limit of a record, JSON or YAML. The largest one that the package writes, the manifest of a
sweep of ten thousand jobs, has a third of it.
"""

MOST_DEPTH = 64
"""Maximum nesting of lists and mappings. The package's own records have eight levels."""

MOST_BITS = 64
"""Maximum size of an integer."""

NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""Non-finite numbers: Python's name -> the text in JSON."""

BESIDE = re.compile(r"\..+\.[0-9]+")
"""Names of the temporary files of atomic writes."""


class Denied(RequestError):  # noqa: N818 - named after the state
    """A file or folder that this user may not read."""


def remove_folder(path: Path) -> None:
    """Remove a folder with its content, if it exists. Raises OSError.

    Only the link is removed if it is symbolic: somebody moved its target elsewhere on purpose.
    """
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def reset_permissions(path: Path) -> None:
    """Set the permissions of a file, or of all files in a folder, to those of newly created files.

    These follow from the umask. Libraries that write a temporary file and rename it leave files
    that only their user can read, so that nobody else in a group could read a run. Raises OSError.
    """
    probe = path.with_name(f".access-of-{path.name}.{os.getpid()}")
    probe.unlink(missing_ok=True)
    probe.touch(mode=0o666)
    try:
        access = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink() and stat.S_IMODE(file.stat().st_mode) != access:
            file.chmod(access)


def may_write(path: Path) -> bool:
    """Return whether this user may write to a file or folder, or create it if it does not exist."""
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    return os.access(there, os.W_OK | (os.X_OK if there.is_dir() else 0))


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of `write_atomically` that a killed process left in a folder.

    Files younger than 60 s are kept, because another process may still be writing them.
    """
    for beside in folder.glob(".*"):
        with suppress(OSError):  # another process has renamed the file meanwhile
            if BESIDE.fullmatch(beside.name) and time.time() - beside.stat().st_mtime > 60:
                beside.unlink()


@contextmanager
def atomic_path(out: Path) -> Iterator[Path]:
    """Context of a temporary path for a file or folder, which is renamed to `out` at the end.

    If the block raises, the temporary file is removed, since a full disk needs the space.
    """
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        yield beside
        reset_permissions(beside)
        os.replace(beside, out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        beside.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def denied(path: Path) -> str:
    """Return the message about a file or folder that this user may not read."""
    return f"{path}: this user may not read it; its owner can allow that by `chmod -R a+rX`"


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without blocking.

    Raises:
        FileNotFoundError: There is no such file. Each caller has its own message for this.
        NotADirectoryError: A parent of the path is a file. Likewise.
        RequestError: It is not a regular file, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except PermissionError:
        raise Denied(denied(path)) from None
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{path}: cannot be read ({reason}); repair it") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise RequestError(f"{path}: is {kind}, not a file; move it away")
    return os.fdopen(descriptor, "rb")


def read_within(path: Path, *, limit: int = RECORD_BYTES) -> bytes:
    """Return the content of a file of at most `limit` bytes. Raises as `open_regular` does."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            content = b"" if size > limit else file.read(limit + 1)
        except OSError as error:
            raise RequestError(f"{path}: cannot be read ({error.strerror}); repair it") from None
    if max(size, len(content)) > limit:
        raise RequestError(
            f"{path}: has more than the {limit:,} bytes that such a file may have; move it away"
        )
    return content


def parse_json(content: bytes) -> Any:
    """Return the plain values of JSON in UTF-8.

    Raises:
        ValueError: It is not JSON, or `refuse_unplain` refuses its values.
    """
    try:
        values = json.loads(content.decode())
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except RecursionError:
        raise ValueError(f"nested deeper than {MOST_DEPTH}") from None
    except ValueError:  # Python refuses to convert more than 4300 digits
        raise ValueError("a whole number of thousands of digits") from None
    refuse_unplain(values)
    return values


def to_json(content: Any, *, indent: int | None = None) -> str:
    """Return standard JSON, which all readers accept.

    Non-finite numbers become the texts "NaN", "Infinity" and "-Infinity", which `core/typed.py`
    converts back.
    """
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_strict(content), indent=indent, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return NOT_FINITE[str(value)]
    return value


def refuse_unplain(values: Any) -> None:
    """Raise ValueError for values that no record of the package contains.

    These are types other than those of JSON, keys that are not text, nesting deeper than
    MOST_DEPTH, integers beyond MOST_BITS, and text with a NUL or a lone surrogate, which can be
    neither a path nor written.
    """
    level = [values]
    for _ in range(MOST_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                if not all(type(key) is str for key in value):
                    raise ValueError("a key that is not text")
                below += value
                below += value.values()
            elif kind is list:
                below += value
            elif kind is str:
                _refuse_unwritable(value)
            elif kind is int:
                if value.bit_length() > MOST_BITS:
                    raise ValueError(f"a whole number beyond {MOST_BITS} bits")
            elif kind not in (float, bool, type(None)):
                raise ValueError(f"a {kind.__name__}, which is no plain value")
        if not below:
            return
        level = below
    raise ValueError(f"nested deeper than {MOST_DEPTH}")


def _refuse_unwritable(text: str) -> None:
    if "\0" in text:
        raise ValueError("text with a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("text with half a character") from None
