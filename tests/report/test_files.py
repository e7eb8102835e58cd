"""Report files: the same table in four formats, escaped in each; a page that loads nothing."""

from __future__ import annotations

import csv
import itertools
import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_lab.core.text import one_line
from dit_lab.report import drawing, files, page, plots, rounding
from dit_lab.report.analysis import Analysis, analyse
from dit_lab.report.arm_sentences import new_steps
from dit_lab.report.evaluations_plot import against_evaluations, evaluations_vary
from dit_lab.report.results import AnalysisRequest, Arm, Compute, Expectation, Result
from dit_lab.report.sentences import answer, sections

METRIC, RECALL = "eval/two_sample_pixels_held_out_n360", "eval/recall_pixels_held_out_n360"
QUESTION = AnalysisRequest(metric=METRIC, lower_is_better=True, secondary=(RECALL,))
AXES = {"objective": ["ddpm", "rectified_flow", "flow_matching"], "model": ["pico", "nano"]}
LOST = {("flow_matching", "nano", 1): "FAILED", ("flow_matching", "nano", 2): "KILLED"}


def sweep(folder: Path | None = None, seeds: int = 3, **axes: Sequence[str]) -> list[Result]:
    """Invented runs: nano is 0.1 better than pico; two seeds of flow_matching are lost."""
    rng = np.random.default_rng(0)
    results = []
    for cell in itertools.product(*axes.values()):
        settings = dict(zip(axes, cell, strict=True))
        for seed in range(seeds):
            status = LOST.get((*cell, seed), "FINISHED")
            value = 0.6 - 0.1 * (settings.get("model") == "nano") + rng.normal(0, 0.004)
            measured = {METRIC: value, RECALL: 0.7 + rng.normal(0, 0.01)}
            curve = [(step, 1 / (1 + step / 10) + rng.normal(0, 0.01)) for step in range(0, 500, 5)]
            results.append(
                Result(
                    run=f"runs/{'-'.join(cell)}-{seed}",
                    settings=settings,
                    seed=seed,
                    status=status,
                    metrics=measured if status == "FINISHED" else {},
                    deviations={METRIC: 0.008},
                    compute=Compute(
                        parameters=300_000,
                        training_flops=1.2e13 if settings.get("model") == "nano" else 1e14,
                        seconds=60 + rng.normal(),
                        images=256_000,
                    ),
                    curves={"train/loss": curve},
                    grid=picture(folder, len(results)) if folder else None,
                )
            )
    return results


def picture(folder: Path, number: int, size: tuple[int, int] = (40, 40)) -> Path:
    file = folder / f"grid-{number}.png"
    Image.new("RGB", size, (number % 256, 0, 0)).save(file)
    return file


def written(
    results: Sequence[Result], folder: Path, question: AnalysisRequest = QUESTION
) -> Analysis:
    ablation = analyse(results, question)
    files.write_report(ablation, folder, title="a sweep")
    return ablation


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def table_of_markdown(file: Path) -> list[list[str]]:
    lines = [line for line in file.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 6 configurations x 3 seeds, two of them lost."""
    folder = tmp_path_factory.mktemp("report")
    written(sweep(folder, **AXES), folder / "out")
    return folder / "out"


# ---- files --------------------------------------------------------------------------------------


def test_files(folder: Path) -> None:
    names = {"report.html", "report.md", "report.csv", "report.tex", "report.png", "compute.png",
             "summary.json"}  # fmt: skip
    assert {file.name for file in folder.iterdir()} == names
    with Image.open(folder / "report.png") as image:
        assert image.width > 800
        assert image.convert("L").getpixel((0, 0)) == 255  # on white, also in dark pages


def test_the_same_answer_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    results = sweep(tmp_path, **AXES)
    written(results, tmp_path / "again")
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.csv", "report.tex"])
def test_every_row_and_missing_seed_is_in_every_format(folder: Path, name: str) -> None:
    text = (folder / name).read_text().replace(r"\_", "_")
    for objective, model in itertools.product(*AXES.values()):
        in_one_row = rf"{objective}\W+(?:td|nbsp|\s|\W)*{model}"
        assert re.search(in_one_row, text), (objective, model)
    assert "seed 1 FAILED; seed 2 KILLED" in text


# ---- the page -----------------------------------------------------------------------------------


def test_the_page_loads_nothing(folder: Path) -> None:
    found = Page(folder / "report.html")
    loading = {"script", "link", "iframe", "object", "embed", "base", "video", "audio", "source"}
    assert not loading & {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "srcset", "href", "xlink:href", "data", "action"):
                assert (value or "").startswith(("data:", "#")), (tag, value)
    text = (folder / "report.html").read_text()
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "http:" not in without_namespaces and "https:" not in without_namespaces


def test_the_page_forbids_loading(folder: Path) -> None:
    metas = [attributes for tag, attributes in Page(folder / "report.html").tags if tag == "meta"]
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in metas)


def test_tags_are_closed_and_ids_used_once_in_a_plot(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    for tag in ("table", "tr", "td", "svg", "g", "figure", "section", "div", "ul", "li", "p"):
        opened = len(re.findall(rf"<{tag}[ >]", text))
        assert opened == len(re.findall(rf"</{tag}>", text)) > 0, tag
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ids = re.findall(r' id="([^"]*)"', svg)
        assert len(ids) == len(set(ids))


def test_plots_take_the_pages_colour_and_font(folder: Path) -> None:
    plotted = "".join(re.findall(r"<svg.*?</svg>", (folder / "report.html").read_text(), re.S))
    assert "currentColor" in plotted and drawing.INK not in plotted
    assert ">train/loss<" in plotted  # text, not outlines
    assert "#000000" not in plotted and "#ffffff" not in plotted


def test_the_page_has_all_its_parts(folder: Path) -> None:
    found = Page(folder / "report.html")
    text = " ".join(found.text)
    for part in ("Answer", "Warnings", "Every run", "Configurations", "Main effects", "By axis",
                 "Quality against compute", "train/loss in training", "Samples",
                 "How to read this"):  # fmt: skip
        assert part in text, part
    images = [attributes for tag, attributes in found.tags if tag == "img"]
    assert len(images) == 6
    assert images[0]["alt"] == "Samples of objective=ddpm, model=pico, seed 0"
    assert ["flow_matching", "nano", "2", "KILLED", "", "runs/flow_matching-nano-2"] in found.rows


HOSTILE = "<script>alert(1)</script>"


def test_settings_are_escaped_everywhere(tmp_path: Path) -> None:
    title = f'{HOSTILE} "quoted" & more'
    results = sweep(model=["pico", HOSTILE])
    ablation = analyse(
        results, AnalysisRequest(metric=METRIC, lower_is_better=True, remarks=[HOSTILE])
    )
    files.write_report(ablation, tmp_path, title=title)
    found = Page(tmp_path / "report.html")
    assert "script" not in {tag for tag, _ in found.tags}
    assert found.rows[2][0] == HOSTILE
    assert title in found.text
    assert "<script" not in (tmp_path / "report.md").read_text()
    assert "<" not in (tmp_path / "report.tex").read_text().replace("$<$", "")


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\nb", "\x9b1m\u202ex", "[/b]", "a|b\r"])
def test_no_file_obeys_a_setting(text: str, tmp_path: Path) -> None:
    """Nor a name, or the title."""
    results = [replace(one, run=text) for one in sweep(model=[text, f"{text} 2"])]
    files.write_report(analyse(results, QUESTION), tmp_path, title=text)
    for name in ("report.html", "report.md", "report.csv", "report.tex"):
        found = (tmp_path / name).read_text()
        assert [c for c in found if c != "\n" and not c.isprintable() and c != "\xa0"] == []
        assert all(line == one_line(line) for line in found.split("\n"))
    rows = [len(row) for row in table_of_markdown(tmp_path / "report.md")]
    assert len(set(rows[:4])) == 1 or "|" in text


def test_formulas_in_settings_are_drawn_as_they_are(tmp_path: Path) -> None:
    """Broken mathematics would stop matplotlib."""
    written(sweep(model=["$\\frac{$", "$x"]), tmp_path)
    assert "model=$\\frac{$" in (tmp_path / "report.html").read_text()


# ---- tables -------------------------------------------------------------------------------------


def test_csv_numbers_are_exact(folder: Path, tmp_path: Path) -> None:
    ablation = analyse(sweep(**AXES), QUESTION)
    with (folder / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6
    for line, configuration, comparison in zip(
        lines, ablation.configurations, ablation.comparisons, strict=True
    ):
        assert {axis: line[axis] for axis in AXES} == configuration.settings
        assert int(line["n"]) == configuration.sample.n
        assert float(line["mean"]) == configuration.sample.mean
        assert float(line[f"{RECALL} mean"]) == configuration.secondary[RECALL].mean
        assert float(line["training_flops"]) == configuration.compute.training_flops
        assert line["verdict"] == comparison.verdict
        tested = comparison.tested
        if tested:
            numbers = tested.low, tested.high, tested.adjusted_p
            read = tuple(float(line[name]) for name in ("low", "high", "adjusted_p"))
            assert read == numbers
            assert float(line["detectable_difference"]) == tested.detectable
        else:
            assert line["low"] == line["adjusted_p"] == ""


def test_columns_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    results = [
        Result(run=f"{model}{seed}", settings={"model": model, "data": "digits"}, seed=seed,
               status="FINISHED", metrics={METRIC: value + (model == "nano")})
        for model in ("pico", "nano")
        for seed, value in enumerate((0.1, 0.2, 0.3))
    ]  # fmt: skip
    written(results, tmp_path, AnalysisRequest(metric=METRIC, lower_is_better=True))
    headings = (tmp_path / "report.csv").read_text().splitlines()[0].split(",")
    assert headings == ["model", "n", "missing_seeds", "mean", "sd", "difference", "low", "high",
                        "adjusted_p", "verdict", "detectable_difference"]  # fmt: skip
    text = (tmp_path / "report.md").read_text()
    assert "The same in all runs: data=digits" in text
    for absent in ("Main effects", "Interactions", "Warnings", "Expected", "Remarks", "FLOPs"):
        assert absent not in text
    page = (tmp_path / "report.html").read_text()
    assert "Samples" not in page and "Quality against compute" not in page


def test_markdown_begins_with_the_answer(folder: Path) -> None:
    first, second, third, *_ = (folder / "report.md").read_text().split("\n\n")
    assert first == "# a sweep"
    assert re.search(
        r"objective=\w+, model=nano is better than objective=ddpm, model=pico by 0\.\d+ ± 0\.\d+ "
        r"\(simultaneous 95% interval, adjusted p (below )?0\.\d+\)",
        second,
    )
    assert third == "![every run, and means with their intervals](report.png)"


def test_markdown_tables_are_whole(tmp_path: Path) -> None:
    """A bar, a line break or markup in a setting does not break a row."""
    names = ["a|b", "c\nd", "*e*", "`f`", "_g_", "[h](i)", "rectified_flow"]
    written(sweep(model=names), tmp_path)
    text = (tmp_path / "report.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    bars = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert len(rows) == 2 + len(names) and len(bars) == 1
    first = [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]]
    escaped = ["a\\|b", "c d", "\\*e\\*", "\\`f\\`", "\\_g\\_", "[h]\\(i)", "rectified_flow"]
    assert first == escaped


def test_latex_escapes_what_latex_reads(tmp_path: Path) -> None:
    names = ["a_b", "50%", "c&d", "#1", "$x$", "{y}", "z\\w", "~", "^", "[0.9]", "*"]
    written(sweep(model=names), tmp_path)
    lines = (tmp_path / "report.tex").read_text().splitlines()
    rows = [line for line in lines if line.endswith(r"\\")]
    first = [row.split(" & ")[0] for row in rows[1:]]
    assert first == ["a\\_b", "50\\%", "c\\&d", "\\#1", "\\$x\\$", "\\{y\\}",
                     "z\\textbackslash{}w", "\\~{}", "\\^{}", "{[}0.9]", "{*}"]  # fmt: skip
    (alignment,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", lines[0])
    assert lines[-1] == r"\end{tabular}"
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(alignment) - 1
        assert row.count("{") - row.count("\\{") == row.count("}") - row.count("\\}")
        assert row.isascii()  # no letter that needs a package


# ---- what a sample costs ------------------------------------------------------------------------


def with_evaluations(taken: Sequence[float | None], **axes: Sequence[str]) -> list[Result]:
    """Synthetic runs whose configs have these NFE, in order."""
    found = sweep(**axes)
    assert len(found) == 3 * len(taken)
    return [
        replace(result, compute=replace(result.compute, evaluations=taken[number // 3]))
        for number, result in enumerate(found)
        if result.compute is not None
    ]


BUDGET = {"sampler": ["euler", "heun"], "sampler.steps": ["10", "20"]}


@pytest.mark.parametrize(
    ("taken", "column", "plotted"),
    [
        ([10, 20, 20, 40], ["10", "20", "20", "40"], True),
        ([10, None, 20, None], ["10", "", "20", ""], True),
        ([20, 20, 20, 20], ["20"] * 4, False),
        ([20, None, 20, None], ["20", "", "20", ""], False),
        ([None] * 4, None, False),
    ],
)
def test_evaluations_are_told_where_known_and_plotted_where_they_differ(
    taken: list[float | None], column: list[str] | None, plotted: bool, tmp_path: Path
) -> None:
    ablation = written(with_evaluations(taken, **BUDGET), tmp_path)
    assert evaluations_vary(ablation) is plotted
    assert ("Quality against NFE" in (tmp_path / "report.html").read_text()) is plotted
    assert (tmp_path / "evaluations.png").exists() is plotted
    assert ("](evaluations.png)" in (tmp_path / "report.md").read_text()) is plotted
    headings, _, *rows = table_of_markdown(tmp_path / "report.md")[: 2 + 4]
    assert ("NFE" in headings) is (column is not None)
    if column is not None:
        assert [row[headings.index("NFE")] for row in rows] == column


def test_a_line_for_each_sampler_and_a_panel_for_each_value_of_another_axis() -> None:
    """The options of a sampler are points of its line, in the order of what they cost."""
    axes = {"model": ["pico", "nano"], "sampler": ["heun", "euler"], "sampler.steps": ["20", "10"]}
    figure = against_evaluations(analyse(with_evaluations([40, 20, 20, 10] * 2, **axes), QUESTION))
    assert [panel.get_title() for panel in figure.axes] == ["model=pico", "model=nano"]
    for panel in figure.axes:
        lines = {line.get_label(): list(line.get_xdata()) for line in panel.get_lines()}
        assert lines == {"sampler=heun": [20, 40], "sampler=euler": [10, 20]}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sampler=heun", "sampler=euler"]


def test_lost_runs_do_not_make_evaluations_differ() -> None:
    """A configuration without a number is no point."""
    found = [
        replace(one, status="FAILED", metrics={}) if one.settings["sampler"] == "heun" else one
        for one in with_evaluations([20, 20, 40, 40], **BUDGET)
    ]
    assert not evaluations_vary(analyse(found, QUESTION))


# ---- words --------------------------------------------------------------------------------------


def repeated(values: dict[str, Sequence[float]]) -> list[Result]:
    return [
        Result(run=f"{name}-{seed}", settings={"model": name}, seed=seed, status="FINISHED",
               metrics={METRIC: value})
        for name, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]  # fmt: skip


A, B = [0.60, 0.62, 0.61], [0.50, 0.51, 0.53]


def answered(values: dict[str, Sequence[float]], *, lower_is_better: bool = True) -> list[str]:
    question = AnalysisRequest(metric=METRIC, lower_is_better=lower_is_better)
    return answer(analyse(repeated(values), question))


def test_answers() -> None:
    """Half the interval of scipy's Welch test is 0.03121, to which 3 seeds add a fifth."""
    by = r"by 0\.097 ± 0\.037 \(simultaneous 95% interval, adjusted p 0\.008\d\)\."
    for word, lower in (("better", True), ("worse", False)):
        (line,) = answered({"pico": A, "nano": B}, lower_is_better=lower)
        assert re.fullmatch(f"model=nano is {word} than model=pico {by}", line)


def test_answers_that_claim_nothing() -> None:
    (none,) = answered({"pico": A, "nano": [0.61, 0.63, 0.6]})
    assert none.startswith("No difference is shown between model=nano and model=pico: 0.003 ± 0.0")
    assert none.endswith("would probably have been seen (power about 80%).")
    (few,) = answered({"pico": A, "nano": B[:2]})
    assert few == "Not tested (fewer than 3 measured seeds): model=nano."
    (base,) = answered({"pico": A[:2], "nano": B})
    assert "the baseline model=pico has 2 measured seeds" in base
    (flat,) = answered({"pico": [0.0] * 3, "nano": [0.1] * 3})
    assert flat == "Not tested (no spread between seeds): model=nano."
    (one,) = answered({"pico": A})
    assert one == f"There is one configuration: {METRIC} is 0.610 ± 0.010 over 3 seeds."


def test_long_answers_are_cut() -> None:
    """Seven are better, m0 the most."""
    lines = answered({"pico": A, **{f"m{n}": [v + n / 1000 for v in B] for n in range(7)}})
    names = [line.split(" is ")[0] for line in lines[:5]]
    assert names == [f"model=m{n}" for n in range(5)]
    assert lines[5:] == ["2 more with the verdict 'better' are in the table."]


def test_agreements_and_interactions_are_said_in_words() -> None:
    rng = np.random.default_rng(0)
    results = [
        Result(
            run="", settings={"objective": objective, "model": model}, seed=seed,
            status="FINISHED",
            metrics={METRIC: (objective != "ddpm") * (model == "nano") + rng.normal(0, 0.01)},
        )
        for objective in ("ddpm", "rectified_flow", "flow_matching")
        for model in ("pico", "nano")
        for seed in range(3)
    ]  # fmt: skip
    expected = [
        Expectation(
            members=[{"objective": one, "model": model}, {"objective": other, "model": model}],
            reason="the same mathematics",
        )
        for one, other, model in (
            ("rectified_flow", "flow_matching", "nano"), ("ddpm", "flow_matching", "nano"),
        )
    ]  # fmt: skip
    question = AnalysisRequest(metric=METRIC, lower_is_better=False, expected_equal=expected)
    by_title = {section.title: section for section in sections(analyse(results, question))}
    agree, differ = by_title["Expected to agree"].lines
    assert "agree as expected (the same mathematics): the interval of the difference" in agree
    assert ", contains 0; a difference above 0.0" in agree
    assert "differ although they should agree (the same mathematics)" in differ
    flagged = by_title["Interactions"].lines
    assert len(flagged) == 2
    assert flagged[0].startswith(
        f"The effect of objective depends on model: the change of {METRIC} from ddpm to "
        "rectified_flow is "
    )
    assert flagged[0].endswith("higher at model=nano than at model=pico.")
    effects = by_title["Main effects"].table
    assert effects is not None
    assert [row[-1] for row in effects.rows] == ["depends on model"] * 2 + ["depends on objective"]


def test_rounding() -> None:
    assert rounding.plus_minus(0.58312, 0.01234) == "0.583 ± 0.012"
    assert rounding.plus_minus(123456.7, 2345.6) == "123457 ± 2346"
    assert rounding.plus_minus(0.5, 0.0) == "0.5 ± 0"
    assert rounding.plus_minus(0.123456, None) == "0.1235"
    assert rounding.between(-0.05, -0.061, -0.039) == "-0.050 [-0.061, -0.039]"
    assert rounding.rounded(-0.0001, 0.01) == "0.000"  # not -0.000
    assert rounding.rounded(1e-12, 1e-13) == "1.000e-12"
    assert rounding.rounded(math.nan, 0.1) == "nan"
    assert [rounding.p_value(p) for p in (0.5, 0.0312, 0.00312, 1e-5)] == [
        "0.50", "0.031", "0.0031", "below 0.0001",
    ]  # fmt: skip
    assert [rounding.quantity(x) for x in (512, 300_000, 2_014_000, 1.3e13, 1.2e18)] == [
        "512", "300 k", "2.01 M", "13 T", "1.20e+18",
    ]  # fmt: skip


# ---- named arms ---------------------------------------------------------------------------------

ARMS = {
    "base": Arm(stands_on=None, changes=()),
    "logit_normal": Arm(stands_on="base", changes=("objective.time_sampling=logit_normal",)),
    "beta2": Arm(
        stands_on="logit_normal", changes=("optimizer.betas=[0.9,0.99]", "ema.decays=[0]")
    ),
    "warm": Arm(stands_on="base", changes=("schedule.warmup_steps=100",)),
}
OF_ARMS = replace(QUESTION, arms=ARMS)


def of_arms(**axes: Sequence[str]) -> list[Result]:
    """Each step is worth 0.1 but that of `warm`, which does nothing."""
    rng = np.random.default_rng(0)
    worth = {"base": 0.6, "logit_normal": 0.5, "beta2": 0.4, "warm": 0.6}
    design = {"arm": [*ARMS], **axes}
    return [
        Result(
            run="-".join(cell), settings=dict(zip(design, cell, strict=True)), seed=seed,
            status="FINISHED", metrics={METRIC: worth[cell[0]] + rng.normal(0, 0.004)},
        )
        for cell in itertools.product(*design.values())
        for seed in range(3)
    ]  # fmt: skip


def test_arms_and_their_steps_in_words(tmp_path: Path) -> None:
    ablation = written(of_arms(model=["pico", "nano"]), tmp_path, OF_ARMS)
    text = (tmp_path / "report.md").read_text()
    arms = text.split("## Arms\n\n")[1].split("\n\n")[0].splitlines()
    assert arms[2:] == [
        "| base |  | nothing |",
        "| logit_normal | base | objective.time_sampling=logit_normal |",
        "| beta2 | logit_normal | optimizer.betas=[0.9,0.99] ema.decays=[0] |",
        "| warm | base | schedule.warmup_steps=100 |",
    ]
    section = text.split("## Steps between arms\n\n")[1]
    said = section.split("\n\n")[0].splitlines()
    number = r"0\.1\d* ± 0\.0\d+ \(simultaneous 95% interval, adjusted p \S+\)"
    wanted = [
        rf"- logit_normal is better than its parent base by {number}, av.*blocks\.",
        r"- beta2 is better than its parent logit_normal by 0\.\d+ ± .* blocks\.",
        r"- No difference is shown between warm and its parent base: .* been seen\.",
    ]
    assert len(said) == 3
    assert all(re.fullmatch(*pair) for pair in zip(wanted, said, strict=True)), said
    rows = [line.strip("| ").split(" | ") for line in section.split("\n\n")[1].splitlines()]
    assert rows[0] == ["arm", "reference", "role of the reference", "mean difference", "adjusted p",
                       "verdict", "detectable difference", "complete blocks"]  # fmt: skip
    assert [row[:3] for row in rows[2:]] == [
        ["logit_normal", "base", "parent and baseline"],
        ["beta2", "logit_normal", "parent"],
        ["beta2", "base", "baseline"],
        ["warm", "base", "parent and baseline"],
    ]
    assert "| arm |" not in text.split("## Main effects")[1].split("##")[0]  # they are above
    assert f"comparisons, effects and steps of this report ({ablation.family} in total)" in text
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Steps between arms</h2>" in page and "optimizer.betas=[0.9,0.99]" in page


def test_a_command_says_each_step_once() -> None:
    """A step from the baseline is one of the comparisons with it, unless it is an average."""
    alone = analyse(of_arms(), OF_ARMS)
    (said,) = new_steps(alone)
    assert said.startswith("beta2 is better than its parent logit_normal by 0.")
    assert any(
        line.startswith("arm=logit_normal is better than arm=base") for line in answer(alone)
    )
    assert len(new_steps(analyse(of_arms(model=["pico", "nano"]), OF_ARMS))) == 3


def test_steps_are_in_files_of_their_own(tmp_path: Path) -> None:
    ablation = written(of_arms(), tmp_path, OF_ARMS)
    with (tmp_path / "steps.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line, step in zip(lines, ablation.steps, strict=True):
        assert step.tested is not None
        assert (line["arm"], line["instead_of"]) == (step.arm, step.reference)
        assert float(line["difference"]) == step.tested.difference
        assert float(line["adjusted_p"]) == step.tested.adjusted_p
        assert line["stands_on_it"] == str(step.stands_on_it).lower()
        assert line["changes"] == ARMS[step.arm].changed
    assert (tmp_path / "steps.tex").read_text().count(r"\\") == 1 + len(ablation.steps)
    written(sweep(**AXES), tmp_path / "without")
    assert not list((tmp_path / "without").glob("steps.*"))


# ---- pictures and limits ------------------------------------------------------------------------


def test_large_pictures_are_shrunk_and_bad_ones_said(tmp_path: Path) -> None:
    small, large = picture(tmp_path, 1), picture(tmp_path, 2, (1600, 900))
    assert page._embedded(small).startswith("data:image/png;base64,")
    assert page._embedded(large).startswith("data:image/jpeg;base64,")
    assert len(page._embedded(large)) < large.stat().st_size * 4
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    for file in (broken, tmp_path / "gone.png"):
        assert page._embedded(file) == ""


def test_more_than_can_be_shown_is_cut_to_the_best_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MOST_GRIDS", 2)
    monkeypatch.setattr(plots, "MOST_CURVES", 3)
    ablation = written(sweep(tmp_path, model=["a", "b", "nano", "c", "d"]), tmp_path / "out")
    found = Page(tmp_path / "out" / "report.html")
    images = [attributes["alt"] for tag, attributes in found.tags if tag == "img"]
    assert images == ["Samples of model=a, seed 0", "Samples of model=nano, seed 0"]
    text = " ".join(found.text)
    assert "Shown are the baseline and the best, 2 of 5 configurations" in text
    assert "Shown are the baseline and the best, 3 of 5 configurations" in text
    assert len(plots.shown(ablation, 3)) == 3


def test_curves_of_seeds_meet_at_common_steps() -> None:
    results = [
        Result(run="", settings={}, seed=seed, status="FINISHED", metrics={METRIC: 0.1 * seed},
               curves={"loss": [(step, float(seed)) for step in range(start, 1001)]})
        for seed, start in ((0, 0), (1, 2))
    ]  # fmt: skip
    (only,) = analyse(results, AnalysisRequest(metric=METRIC, lower_is_better=True)).configurations
    steps, values = plots._curve(only, "loss")
    assert steps[0] == 2 and steps[-1] == 1000 and len(steps) <= plots.MOST_POINTS + 1
    assert values.shape == (2, len(steps))
    assert values.mean() == 0.5
    assert plots._curve(only, "other")[0].size == 0


@pytest.mark.slow
def test_the_time_of_a_report_hardly_grows_with_its_runs(tmp_path: Path) -> None:
    """A thousand make a page of a few MB."""
    seconds = []
    for count in (6, 24):
        levels = [f"{n}e-4" for n in range(count)]
        results = sweep(objective=[f"o{n}" for n in range(7)], model=["pico", "nano"], lr=levels)
        start = time.process_time()
        written(results, tmp_path)
        seconds.append(time.process_time() - start)
    assert len(results) == 1008
    assert seconds[1] < 3 * seconds[0]  # most is drawing and simulating, whatever the number
    assert (tmp_path / "report.html").stat().st_size < 8e6
    assert len(table_of_markdown(tmp_path / "report.md")) > 336
