"""Text from other people, made safe for a terminal, a path, a store's URI or a shell. Torch-free.

Names of classes, files, runs and experiments come from folders and records of other people. Nothing
else in the package prints, expands a path, or puts a name into a path, a URI or a command.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from dit_lab.core.errors import RequestError

# ---- terminal output ----------------------------------------------------------------------------

JOINERS = "\u200c\u200d"  # needed by several scripts and emoji
SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, formats (such as writing direction), surrogates, and line
and paragraph separators.
"""


def one_line(text: object) -> str:
    """Return a text as one printable line.

    Control characters, line breaks, changes of the writing direction and surrogates become escapes
    such as `\\x1b`.
    """
    found = str(text)
    if found.isascii() and found.isprintable():
        return found
    return "".join(map(_shown, found))


def _shown(letter: str) -> str:
    if letter in JOINERS or unicodedata.category(letter) not in UNSAFE:
        return letter
    if letter in SHORT:
        return SHORT[letter]
    code = ord(letter)
    return (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"
    )


def say(text: object = "", file: TextIO | None = None) -> None:
    """Print one line to standard output, or to another file.

    If the reader is gone (closed pipe, lost terminal), further output is discarded and the command
    continues. Raises OSError if a disk is full.
    """
    stream = file or sys.stdout
    if stream is None:  # closed before the command was started
        return
    try:
        stream.write(f"{one_line(text)}\n")
        stream.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        discard_output(stream)


def say_lines(text: str) -> None:
    """Print the lines of a text of this package, such as help or a configuration."""
    for line in text.removesuffix("\n").split("\n"):
        say(line)


def discard_output(stream: TextIO) -> None:
    """Discard everything that this process writes to a stream from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)


# ---- messages and overrides ---------------------------------------------------------------------

PLAIN = re.compile(r"(?!(?i:null|true|false|nan|inf)$)[A-Za-z/][A-Za-z0-9_/.+:@-]*")


def counted(number: int, thing: str) -> str:
    """Return a count with its noun: `1 seed`, `3 classes`, `1,437 images`.

    Of a noun of several words, the last one gets the plural.
    """
    ending = "" if number == 1 else "es" if thing.endswith(("s", "x", "sh", "ch")) else "s"
    return f"{number:,} {thing}{ending}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the names as `a, b, c, d, e and 7 more`."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def shell_line(*words: object) -> str:
    """Return a command as it can be pasted into a shell, with quoting."""
    return one_line(shlex.join(map(str, words)))


def key_value(key: str, value: object) -> str:
    """Return the override KEY=VALUE for a text, quoted if Hydra needs it."""
    text = str(value)
    return f"{key}={text if PLAIN.fullmatch(text) else quoted(text)}"


def quoted(text: str) -> str:
    """Return a text quoted for Hydra, where a backslash is special only before a quote."""
    escaped = re.sub(r"(\\*)(')", r"\1\1\\\2", text)
    ends = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{escaped[len(escaped) - ends :]}'"


# ---- names --------------------------------------------------------------------------------------

LONGEST_NAME = 200  # bytes: 255 of the file system, less date and hash of a sweep folder
MARKS = " ._+@-"


def checked_name(key: str, name: Any) -> str:
    """Return the text of a name that becomes a folder and a word on the command line.

    It consists of letters, digits and `MARKS`, begins with a letter, a digit or `_`, and does not
    end with a space or a dot.

    Raises:
        RequestError: The name of `key` is anything else.
    """
    text = str(name)
    first, last = text[:1], text[-1:]
    if (
        not text
        or not all(_is_letter(letter) or letter in MARKS for letter in text)
        or not (_is_letter(first) or first == "_")
        or last in " ."
    ):
        raise RequestError(
            f"{key}={text}: names a folder; use letters, digits, spaces and any of . _ + @ -, "
            "begin with a letter, a digit or _, and end with neither a space nor a dot"
        )
    if len(text.encode()) > LONGEST_NAME:
        raise RequestError(
            f"{key}={text}: names a folder, and has {len(text.encode())} bytes; use at most "
            f"{LONGEST_NAME}"
        )
    return text


def _is_letter(letter: str) -> bool:
    """Return whether a character is a letter, a mark on a letter, or a digit, of any script."""
    return unicodedata.category(letter)[0] in "LMN"


# ---- paths and URIs -----------------------------------------------------------------------------

LONGEST_PART, LONGEST_PATH = 255, 4095  # bytes


def local_path(given: object, what: str) -> Path:
    """Return a path given by a user, with `~` and `~USER` expanded.

    Args:
        given: The path.
        what: Prefix that it was given with, for messages: "out=" or "--out ".

    Raises:
        RequestError: No file system can have such a path.
    """
    text = str(given)
    if not text:
        raise RequestError(f"{what or repr(text)}: is empty; give a path")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        user = text.partition("/")[0]
        raise RequestError(
            f"{what}{text}: this machine has no home folder of {user}; write the path in full"
        ) from None
    try:
        parts = [len(part.encode()) for part in path.parts]
    except UnicodeEncodeError:
        raise RequestError(f"{what}{text}: is no UTF-8 text; give the file another name") from None
    if "\0" in text:
        raise RequestError(f"{what}{text}: holds a zero byte, which no path can have")
    if max(parts, default=0) > LONGEST_PART or sum(parts) + len(parts) > LONGEST_PATH:
        raise RequestError(f"{what}{text}: is longer than a path can be; give a shorter one")
    return path


def store_uri(file: Path | str) -> str:
    """Return the URI of a sqlite database, with an absolute path.

    Escapes `?` and `%41`, which SQLAlchemy would read as the end of the path and as a letter.
    """
    path = re.sub("%(?=[0-9A-Fa-f]{2})", "%25", str(file)).replace("?", "%3F")
    return f"sqlite:///{path}"
