"""A sweep in the browser: its report, and its runs on MLflow's page.

With PAGES_OUT=FOLDER a screenshot of each page is saved there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.browser import Browser, Page, find_browser
from tests.integration.fragile import manifest_in, sweep_in, tracked
from tests.integration.server import free_port

pytestmark = pytest.mark.slow

PROGRAM = find_browser()
if PROGRAM is None:
    pytest.skip("there is no Chromium and no Chrome", allow_module_level=True)

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Open = Callable[..., Page]
Address = Callable[..., str]

VALUES = ["0.001", "0.01"]
TRAINING = "machine_learning"
IMAGES = "[...document.images].map(image => image.complete ? image.naturalWidth : 0)"


@dataclass(frozen=True)
class Swept:
    """A sweep of two jobs, and what MLflow calls its runs."""

    report: Path
    experiment: str
    parent: str
    children: list[str]
    names: dict[str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, store_in: Callable[[Path], None]) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    store_in(folder)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Of the server that `dit-lab ui` starts, perhaps before it answers."""
    port = free_port()
    with (folder / "ui.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dit_lab", "ui", "--port", str(port)],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        process.wait()


@pytest.fixture(scope="module")
def swept(folder: Path, address: str, forked_in: Command, tiny: list[str]) -> Swept:
    """The server starts meanwhile, and answers at the end."""
    done = forked_in(folder, "train", "-m", *tiny, f"optimizer.lr={','.join(VALUES)}")
    assert done.returncode == 0, done.stdout + done.stderr
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            assert time.monotonic() < deadline, (folder / "ui.log").read_text()
            time.sleep(0.2)
    manifest = manifest_in(folder)
    parent = manifest["parent_run_id"]
    with sqlite3.connect(folder / "outputs/mlflow.db") as store:
        found = "select experiment_id from runs where run_uuid = ?"
        (experiment,) = store.execute(found, [parent]).fetchone()
    return Swept(
        report=Path(sweep_in(folder)) / "report/report.html",
        experiment=str(experiment),
        parent=parent,
        children=[job["run_id"] for job in manifest["jobs"]],
        names={run_id: tags["mlflow.runName"] for run_id, (_, tags) in tracked(folder).items()},
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    profile = tmp_path_factory.mktemp("browser") / "profile"
    assert PROGRAM is not None
    browser = Browser(PROGRAM, profile)
    try:
        yield browser
    finally:
        browser.close()
        shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def visit(browser: Browser, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Open]:
    """`visit(url)` opens a tab; at the end there is a screenshot of it."""
    opened: list[Page] = []

    def visit(url: str, **more: bool) -> Page:
        opened.append(browser.open(url, **more))
        return opened[-1]

    yield visit
    out = Path(os.environ.get("PAGES_OUT", tmp_path))
    out.mkdir(parents=True, exist_ok=True)
    name = request.node.name.removeprefix("test_")
    for page in opened:
        page.screenshot(out / f"{name}.png")
        page.close()


@pytest.fixture
def mlflow(address: str) -> Address:
    """Addresses on MLflow's page, which is one for language models unless it is told."""

    def at(place: str, **query: str) -> str:
        asked = "&".join(f"{k}={v}" for k, v in {**query, "workflowType": TRAINING}.items())
        return f"{address}/#/{place}?{asked}"

    return at


def test_the_report_needs_no_network(swept: Swept, visit: Open) -> None:
    page = visit(swept.report.as_uri(), offline=True)
    page.wait_for_text("Answer", "Configurations", "Samples")
    cells = page.evaluate("[...document.querySelectorAll('td')].map(cell => cell.textContent)")
    assert set(VALUES) <= set(cells)
    assert page.wait_for(f"{IMAGES}.every(Boolean) && {IMAGES}.length") == len(VALUES)
    plots = "[...document.querySelectorAll('figure svg')].map(plot => plot.clientHeight)"
    drawn = page.evaluate(plots)
    assert len(drawn) == 3  # every run, and the losses in evaluation and in training
    assert min(drawn) > 100
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("document.querySelector('summary').click()")
    page.wait_for_text("FINISHED")  # in the table of every run
    assert page.requests() == [swept.report.as_uri()]
    assert page.errors() == []


def test_children_are_below_their_parent(swept: Swept, visit: Open, mlflow: Address) -> None:
    page = visit(mlflow(f"experiments/{swept.experiment}/runs"))
    page.wait_for_text(swept.names[swept.parent], "3 matching runs")
    assert not any(swept.names[child] in page.text() for child in swept.children)
    page.evaluate(f"document.querySelector('[row-id=\"{swept.parent}\"] button').click()")
    page.wait_for_text(*swept.names.values())
    rows = page.evaluate(
        "[...document.querySelectorAll('[col-id*=\"Run Name\"] a')].map(link => "
        "[link.href.split('/').pop().split('?')[0], link.getBoundingClientRect().x])"
    )
    (first, left), *others = rows
    assert first == swept.parent
    assert {run_id for run_id, _ in others} == set(swept.children)
    assert all(x > left for _, x in others)


def test_children_are_compared(swept: Swept, visit: Open, mlflow: Address) -> None:
    runs = json.dumps(swept.children)
    page = visit(mlflow("compare-runs", runs=runs, experiments=f'["{swept.experiment}"]'))
    page.wait_for_text("Comparing 2 Runs", *(swept.names[child] for child in swept.children))
    page.wait_for_text("optimizer.lr", "eval/loss", *VALUES)


def test_samples_of_a_child(swept: Swept, folder: Path, visit: Open, mlflow: Address) -> None:
    """Over the steps, among the charts of the run, with a slider."""
    run_id = swept.children[0]
    page = visit(mlflow(f"experiments/{swept.experiment}/runs/{run_id}/model-metrics"))
    page.wait_for_text(swept.names[run_id], "Add section")
    drawn = folder / "outputs/mlartifacts" / run_id / "artifacts/images"
    with Image.open(next(drawn.glob("samples+step+40+*.webp"))) as image:
        width = image.width
    buttons = "[...document.querySelectorAll('button')]"
    down = f"{buttons}.find(one => one.innerText.includes('Add section')).scrollIntoView()"
    place = "document.querySelector('[role=slider]').parentElement.parentElement"
    edges = f"(box => [box.right - 8, box.y + box.height / 2])({place}.getBoundingClientRect())"
    x, y = page.wait_for(f"({down}, {edges})")  # there once it is in view
    page.click(x, y)
    page.wait_for(f"({down}, {IMAGES}.includes({width}))")


def test_the_report_of_the_parent(
    swept: Swept, visit: Open, browser: Browser, mlflow: Address
) -> None:
    runs = f"experiments/{swept.experiment}/runs"
    page = visit(mlflow(f"{runs}/{swept.parent}/artifacts/report/report.html"))
    page.wait_for_text(swept.names[swept.parent], "report/report.html")
    assert page.wait_for("document.querySelector('iframe')?.clientHeight") > 300
    frame = browser.frame("blob:")
    frame.wait_for_text("Answer", "Configurations", *VALUES)
    assert frame.wait_for(f"{IMAGES}.every(Boolean) && {IMAGES}.length") == len(VALUES)
    assert frame.errors() == []
