"""Trust of a command: how the user grants it, and how child processes receive it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_lab.config.components import COMPONENTS
from dit_lab.core import trust
from dit_lab.core.errors import RequestError

PAGE = Path(__file__).parents[2] / "docs/trust.md"
STORE = "https://me@host/x"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in (trust.MODULES, trust.STORES, trust.PASSWORD):
        monkeypatch.delenv(name, raising=False)


def write(tmp_path: Path, text: str) -> None:
    (tmp_path / "config/dit-lab").mkdir(parents=True)
    (tmp_path / "config/dit-lab/trust.yaml").write_text(text)


def test_three_places_say_it_and_the_command_ends_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, f"trusted_modules: [from_file]\ntracking_uris: ['{STORE}/file']\n")
    monkeypatch.setenv(trust.MODULES, "from_environment,other")
    monkeypatch.setenv(trust.STORES, f"{STORE}/a {STORE}/b")
    (tmp_path / "typed_here.py").write_text("")
    monkeypatch.chdir(tmp_path)
    words = ["seed=1", "trusted_modules=[typed_here]", f"tracking.uri={STORE}"]
    with trust.this_command():
        assert trust.grant_from_arguments(words) == ["seed=1", f"tracking.uri={STORE}"]
        modules = ("typed_here", "from_environment", "other", "from_file")
        assert trust.trusted_modules() == modules
        assert all(trust.may_contact(STORE + end) for end in ("", "/a", "/b", "/file"))
        assert trust.environment()[trust.MODULES] == ",".join(modules)
    assert trust.trusted_modules() == ("from_environment", "other", "from_file")
    assert not trust.may_contact(STORE)


@pytest.mark.parametrize("name", ["os", "dit_lab.cli", "torch.hub", "a/b", "1", ".a", ""])
def test_what_nobody_can_trust(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trust.MODULES, name or "a,b c")
    with pytest.raises(RequestError, match=trust.MODULES):
        trust.trusted_modules()


def test_a_module_here_does_not_take_another_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("class Own: ...\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    trust.trust_modules([])
    assert str(tmp_path) not in sys.path  # nobody trusts anything here
    trust.trust_modules(["mine"])
    assert sys.path[-1] == str(tmp_path)
    assert trust.load_own("mine.Own", key="model._target_").__name__ == "Own"


# ---- stores -------------------------------------------------------------------------------------


def test_the_store_of_the_command_is_its_own_whatever_links_lead_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    trust.trust_own_store(tmp_path / "link")
    assert trust.may_contact(trust.default_store(tmp_path / "real"))
    assert not trust.is_named(trust.default_store(tmp_path / "real"))
    assert not trust.may_contact(trust.default_store(tmp_path))
    assert trust.STORES not in trust.environment()


@pytest.mark.parametrize(
    ("given_uri", "plain", "password"),
    [
        ("postgresql://me:a%2Fb@host/db", "postgresql://me@host/db", "a/b"),
        ("mysql+a://me:se/cr@t@host:5432/db", "mysql+a://me@host:5432/db", "se/cr@t"),
        ("https://host:5000/a@b", "https://host:5000/a@b", None),
        ("https://:token@host", "https://@host", "token"),
        ("mssql://host/db?user=me&password=x&ssl=1", "mssql://host/db?user=me&ssl=1", "x"),
        ("postgresql://host/db?password=x", "postgresql://host/db", "x"),
        ("sqlite:////data/me:x@y/mlflow.db", "sqlite:////data/me:x@y/mlflow.db", None),
    ],
)  # fmt: skip
def test_a_password_is_taken_out(given_uri: str, plain: str, password: str | None) -> None:
    with trust.this_command():
        assert trust.without_password(given_uri) == plain
        assert trust.environment().get(trust.PASSWORD) == password
        assert password is None or password not in plain


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_any_password_comes_back_for_its_store_alone(password: str) -> None:
    from urllib.parse import quote

    address = f"postgresql://me:{quote(password, safe='')}@host:5432/db"
    with trust.this_command():
        plain = trust.without_password(address)
        assert plain == "postgresql://me@host:5432/db"
        assert trust.with_password(plain) == address
        for other in ("postgresql://host/db", "sqlite:////data/mlflow.db"):
            assert trust.with_password(other) == other


def test_the_variable_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trust.lacks_password(STORE) == f"; {trust.PASSWORD} is not set"
    assert trust.lacks_password("https://host") == ""
    monkeypatch.setenv(trust.PASSWORD, "x")
    assert trust.lacks_password(STORE) == ""
    assert trust.with_password(STORE) == "https://me:x@host/x"


# ---- the page -----------------------------------------------------------------------------------


def test_the_page_lists_what_is_registered() -> None:
    rows = [
        f"| `{group}` | {', '.join(f'`{target}`' for target in of_it)} |"
        for group, of_it in COMPONENTS.items()
    ]
    assert PAGE.read_text().partition("<!-- registered -->\n")[2].splitlines()[2:] == rows
