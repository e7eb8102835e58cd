"""Display of foreign names: as text, folder, path, address and shell word."""

from __future__ import annotations

import io
import os
import shlex
import sqlite3
import sys
import unicodedata
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dit_lab.config.axes import name_of
from dit_lab.config.overrides import parse_override
from dit_lab.core import text as text_module
from dit_lab.core.errors import RequestError
from dit_lab.core.text import (
    LONGEST_NAME,
    checked_name,
    key_value,
    local_path,
    one_line,
    quoted,
    say,
    say_lines,
    shell_line,
    store_uri,
)
from dit_lab.core.trust import sqlite_path
from dit_lab.tracking.addresses import check_uri

ANY = st.text(st.characters(exclude_categories=()))  # surrogates too
FILE_NAMES = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)


@given(ANY)
@example("\x1b[31mred\x1b[0m")
@example("a\nb\rc\td\x0b\x85\u2028\u2029")
@example("\x9b31m \u202eevil \u2066x\u200b\ufeff\udcff")
def test_no_letter_of_a_line_is_obeyed(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert not any(
        unicodedata.category(c) in text_module.UNSAFE for c in set(line) - set("\u200c\u200d")
    )
    line.encode()  # no surrogate is left
    assert one_line(line) == line
    if not any(unicodedata.category(c) in text_module.UNSAFE for c in text):
        assert line == text


def test_escapes_are_readable() -> None:
    assert one_line("a\nb\t\x1b[31m\x9b\u202e\udcff\U000e0041") == (
        r"a\nb\t\x1b[31m\x9b\u202e\udcff\U000e0041"
    )
    assert one_line("größer, 日本, می\u200cرود, [red]cats[/red]") == (
        "größer, 日本, می\u200cرود, [red]cats[/red]"
    )


def test_say_prints_one_line() -> None:
    file = io.StringIO()
    say("a\nb", file)
    say(file=file)
    assert file.getvalue() == "a\\nb\n\n"


def test_lines_of_the_lab_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say_lines("a: 1\n\nb: \x1b\n")
    assert capsys.readouterr().out == "a: 1\n\nb: \\x1b\n"


def test_say_goes_on_where_nobody_reads() -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream:
        say("lost", stream)
        say("lost too", stream)


def test_say_says_that_a_disk_is_full() -> None:
    stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - closing it fails too
    with pytest.raises(OSError, match="No space left"):
        say("kept", stream)
    text_module.discard_output(stream)
    stream.close()


def test_say_without_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    say("nobody sees it")


@given(st.lists(st.text(st.characters(exclude_categories=text_module.UNSAFE)), min_size=1))
@example(["dit-lab", "sweep", "resume", '/bob\'s lab/$(x) `y` "z" a;b'])
def test_a_shell_reads_the_words_of_a_line(words: list[str]) -> None:
    assert shlex.split(shell_line(*words)) == words


# `\${` stands for `${` in Hydra's quotes; what is printed of it is not read back.
@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))).filter(lambda t: "${" not in t))
@example("\\")
@example("İ")  # a small i and a dot for who ignores case
@example("a\\'b\\\\'")
@example("~/bob's lab, [x]=ä")
def test_the_command_line_reads_what_is_quoted(text: str) -> None:
    assert parse_override(f"key={quoted(text)}").value() == text
    assert parse_override(key_value("key", f"/{text}")).value() == f"/{text}"


def test_what_needs_no_quotes_has_none() -> None:
    assert key_value("run", "outputs/runs/a-b/0123") == "run=outputs/runs/a-b/0123"


# ---- names --------------------------------------------------------------------------------------


@given(ANY)
@example("..")
@example("../../escape")
@example("a/b")
@example("-rf")
@example("a=b")
@example("a,b")
@example("a.")
@example("e\u0301 हिन्दी 日本 1.5-x_@+")
def test_a_name_is_a_folder_or_refused(name: str) -> None:
    try:
        assert checked_name("name", name) == name
    except RequestError as refusal:
        assert str(refusal).startswith("name=")
        return
    assert Path("root", name).parent == Path("root")
    assert name == name.strip() and not name.endswith(".") and not name.startswith((".", "-"))
    assert len(f"{name}-20260101-000000-012345".encode()) <= 255
    assert one_line(name) == name
    assert parse_override(key_value("run", name)).value() == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", ".x", "../../escape", "/root/x", "ä/ö", "a\\b", "a\0b", "a\nb", "\x1b[31m",
        "-x", "x.", "x ", " x", "a=b", "a,b", "a:b", "a'b", "$x", "x" * 300, "ä" * 101, "\udcff",
        "[/b]", "<script>", "a|b", "a*b",
    ],
)  # fmt: skip
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(RequestError, match="names a folder"):
        checked_name("sweep.name", name)


@pytest.mark.parametrize(
    "name", ["quickstart", "dit-xl", "digits-s-2-ddpm", "größe", "日本", "a b", "1.5", "x" * 200]
)
def test_what_is_a_name(name: str) -> None:
    assert checked_name("name", name) == name


def test_a_sweep_of_many_axes_has_a_name() -> None:
    name = name_of(f"model.option_{number}" for number in range(50))
    assert checked_name("sweep.name", name) == name and len(name) <= LONGEST_NAME


# ---- paths and addresses ------------------------------------------------------------------------


def test_home_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/x", "out=") == tmp_path / "x"
    assert local_path("x/~y", "out=") == Path("x/~y")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "out=: is empty"),
        ("~nosuchuser/x", "out=~nosuchuser/x: this machine has no home folder of ~nosuchuser"),
        ("a\0b", "zero byte"),
        ("x" * 256, "longer than a path"),
        ("x/" * 2100, "longer than a path"),
        ("\udcff", "no UTF-8"),
    ],
)
def test_what_is_no_path(path: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        local_path(path, "out=")


@given(FILE_NAMES)
@example("q?x")
@example("a%20b")
@example("%%41")
@example("%2?5")
def test_an_address_leads_back_to_its_path(name: str) -> None:
    uri = store_uri(f"/{name}/mlflow.db")
    assert unquote(uri.removeprefix("sqlite:///")) == f"/{name}/mlflow.db"
    assert "?" not in uri


@settings(max_examples=60)
@given(FILE_NAMES)
@example("q?x")
@example("a%20b")
@example("a#b;c&d=e 'f' \"g\" @h:i")
def test_sqlalchemy_opens_the_database_of_an_address(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """And what MLflow would take for another folder is refused before."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    folder = tmp_path_factory.mktemp("uri") / name
    folder.mkdir()
    uri = store_uri(folder / "mlflow.db")
    with create_engine(uri, poolclass=NullPool).begin() as database:
        database.execute(text("CREATE TABLE found (x)"))
    with sqlite3.connect(folder / "mlflow.db") as direct:
        assert direct.execute("SELECT name FROM sqlite_master").fetchall() == [("found",)]
    try:
        check_uri(uri)
    except RequestError as refusal:
        assert "MLflow keeps no database in a folder with" in str(refusal)
        assert "?" in name or unquote(name) != name
    else:
        assert sqlite_path(uri) == folder / "mlflow.db"
