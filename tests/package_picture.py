"""The picture of the packages in docs/architecture.md, drawn from the imports.

    python -m tests.package_picture

writes docs/packages.svg; a test fails if it is out of date. An arrow means "imports". Arrows that
follow from others are left out (transitive reduction).

The layout follows Sugiyama, Tagawa & Toda 1981: one row per layer, an invisible node in each row
that an arrow crosses, an order with few crossings, then positions close to the neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path

from tests.test_layers import ABOVE, ALSO, MAY_IMPORT, MODULES, SIDE_BY_SIDE, imports, part_of

PICTURE = Path(__file__).resolve().parents[1] / "docs/packages.svg"

Edge = tuple[str, str]
Row = list[str]

BOX_HEIGHT, ROW_HEIGHT, GAP, MARGIN = 26, 52, 18, 14
LETTER = 7.8  # pixels of width
SWEEPS = 24

BANDS = {"commands and composition": ABOVE, "parts": SIDE_BY_SIDE}
"""Names of the layers, as they are written into the picture; the rest is BASE."""
BASE = "base"

STYLE = """
  text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2328;
         text-anchor: middle; dominant-baseline: central }
  .band { fill: #f1f3f5 }
  .layer { font: 12px system-ui, sans-serif; fill: #59636e; text-anchor: start }
  .box { fill: #ffffff; stroke: #59636e }
  .import { fill: none; stroke: #818b98 }
  .head { fill: #818b98 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .band { fill: #21262d }
    .layer { fill: #9198a1 }
    .box { fill: #0d1117; stroke: #9198a1 }
    .import { stroke: #7d8590 }
    .head { fill: #7d8590 }
  }
"""


def imported_packages() -> dict[str, set[str]]:
    """Package -> the packages that its modules import, also inside functions."""
    found: dict[str, set[str]] = {package: set() for package in MAY_IMPORT}
    for file in MODULES:
        package = part_of(file)
        for name in imports(file) if package in found else ():
            if name.startswith("dit_lab.") and (other := name.split(".")[1]) in found:
                found[package].add(other)
        found.get(package, set()).discard(package)
    return found


def reduced(graph: Mapping[str, set[str]]) -> list[Edge]:
    """The edges of a graph without cycles that no longer path implies."""

    def reached(package: str) -> set[str]:
        return graph[package].union(*(reached(other) for other in graph[package]))

    return sorted(
        (package, other)
        for package, others in graph.items()
        for other in others
        if not any(other in reached(between) for between in others - {other})
    )


def layers(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Packages by rows, the top one first: as in `test_layers`, and what imports nothing of its
    own layer below what does."""
    parts = [package for package in MAY_IMPORT if package in SIDE_BY_SIDE]

    def depth(part: str) -> int:
        return 1 + max((depth(other) for other in ALSO.get(part, ())), default=0)

    deepest = max(map(depth, parts))
    rows = [[package] for package in reversed(ABOVE)]
    for row, below in list(pairwise(rows))[::-1]:  # those that do not need each other share a row
        if not graph[row[0]] & set(below):
            below[:0] = row
            rows.remove(row)
    rows += [sorted(p for p in parts if depth(p) == level) for level in range(deepest, 0, -1)]
    base = [package for package in MAY_IMPORT if package not in (*ABOVE, *SIDE_BY_SIDE)]
    rows += [[p for p in base if graph[p]], [p for p in base if not graph[p]]]
    assert sorted(p for row in rows for p in row) == sorted(MAY_IMPORT)
    return rows


def with_invisible(
    rows: Sequence[Sequence[str]], edges: Iterable[Edge]
) -> tuple[list[Row], list[list[str]]]:
    """Rows with a node in each row that an edge crosses, and the nodes along each edge."""
    filled = [list(row) for row in rows]
    row_of = {package: index for index, row in enumerate(rows) for package in row}
    paths = []
    for package, other in edges:
        assert row_of[package] < row_of[other], f"{package} imports {other}, which is not below"
        path = [package]
        for index in range(row_of[package] + 1, row_of[other]):
            path.append(f"{package} -> {other} ({index})")
            filled[index].append(path[-1])
        paths.append([*path, other])
    return filled, paths


def ordered(rows: list[Row], links: Sequence[Edge]) -> list[Row]:
    """Rows in the order with the fewest crossings that barycentres find."""
    best, fewest = rows, _crossings(rows, links)
    for sweep in range(SWEEPS):
        rows = [list(row) for row in rows]
        downwards = sweep % 2 == 0
        indices = range(1, len(rows)) if downwards else range(len(rows) - 2, -1, -1)
        for index in indices:
            fixed = {node: i for i, node in enumerate(rows[index - 1 if downwards else index + 1])}
            middle = _means(rows[index], links, fixed)
            rows[index].sort(key=lambda node, middle=middle: middle[node])
        if (count := _crossings(rows, links)) < fewest:
            best, fewest = rows, count
    return best


def _means(row: Row, links: Sequence[Edge], values: Mapping[str, float]) -> dict[str, float]:
    """The mean of the neighbours' values; of a node without neighbours, its own place."""
    found = {}
    for place, node in enumerate(row):
        near = [values[b] for a, b in links if a == node and b in values]
        near += [values[a] for a, b in links if b == node and a in values]
        found[node] = sum(near) / len(near) if near else float(place)
    return found


def _crossings(rows: Sequence[Row], links: Sequence[Edge]) -> int:
    place = {node: index for row in rows for index, node in enumerate(row)}
    row_of = {node: index for index, row in enumerate(rows) for node in row}
    return sum(
        (place[a] - place[c]) * (place[b] - place[d]) < 0
        for (a, b), (c, d) in combinations(links, 2)
        if row_of[a] == row_of[c]
    )


def placed(rows: Sequence[Row], links: Sequence[Edge]) -> dict[str, float]:
    """The middle of each node, in pixels: near the mean of its neighbours, in the row's order."""
    x = {node: 0.0 for row in rows for node in row}
    for row in rows:
        x |= _in_order(row, x)
    for _ in range(SWEEPS):
        for row in rows:
            neighbours = {node: value for node, value in x.items() if node not in row}
            linked = [node for node in row if any(node in link for link in links)]
            wanted = {**x, **_means(linked, links, neighbours)}
            x |= _in_order(row, wanted)
    left = min(x[node] - _width(node) / 2 for node in x)
    return {node: value - left for node, value in x.items()}


def _in_order(row: Row, wanted: Mapping[str, float]) -> dict[str, float]:
    """The places nearest to those wanted, in least squares, that keep order and distance."""
    offsets = [0.0]
    for node, following in pairwise(row):
        offsets.append(offsets[-1] + (_width(node) + _width(following)) / 2 + GAP)
    blocks: list[list[float]] = []  # pool adjacent violators
    for node, offset in zip(row, offsets, strict=True):
        blocks.append([wanted[node] - offset])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    starts = [_mean(block) for block in blocks for _ in block]
    return {n: s + o for n, s, o in zip(row, starts, offsets, strict=True)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _width(node: str) -> float:
    return 0.0 if " " in node else LETTER * len(node) + 20


def drawn() -> str:
    """The picture of now, as SVG."""
    graph = imported_packages()
    edges = reduced(graph)
    rows, paths = with_invisible(layers(graph), edges)
    links = [link for path in paths for link in pairwise(path)]
    rows = ordered(rows, links)
    x = placed(rows, links)
    y = {node: (i + 0.5) * ROW_HEIGHT for i, row in enumerate(rows) for node in row}
    boxes = [node for row in rows for node in row if " " not in node]
    width = round(max(x[node] + _width(node) / 2 for node in x) + 2 * MARGIN)
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {width} {len(rows) * ROW_HEIGHT}" width="{width}" role="img">',
        "<title>The packages of dit_lab and what they import</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path class="head" d="M0 1L8 4L0 7z"/></marker></defs>',
    ]
    for name, row_range in _bands(rows):
        top, bottom = row_range.start * ROW_HEIGHT, row_range.stop * ROW_HEIGHT
        lines.append(
            f'<rect class="band" x="0" y="{top + 2}" width="{width}" height="{bottom - top - 4}" '
            f'rx="6"/><text class="layer" x="{MARGIN}" y="{top + 20}">{name}</text>'
        )
    for path in paths:
        places = [(x[node] + MARGIN, y[node]) for node in path]
        lines.append(f'<path class="import" marker-end="url(#head)" d="{_curve(places)}"/>')
    for node in boxes:
        left, top = x[node] + MARGIN - _width(node) / 2, y[node] - BOX_HEIGHT / 2
        lines.append(
            f'<rect class="box" x="{left:.0f}" y="{top:.0f}" width="{_width(node):.0f}" '
            f'height="{BOX_HEIGHT}" rx="5"/><text x="{x[node] + MARGIN:.0f}" y="{y[node]:.0f}">'
            f"{node}</text>"
        )
    return "\n".join([*lines, "</svg>", ""])


def _bands(rows: Sequence[Row]) -> list[tuple[str, range]]:
    """Names of layers with the rows that they take."""
    names = []
    for row in rows:
        (name,) = {
            next((band for band, members in BANDS.items() if node in members), BASE)
            for node in row
            if " " not in node
        }
        names.append(name)
    ordered_names = list(dict.fromkeys(names))
    return [
        (name, range(names.index(name), names.index(name) + names.count(name)))
        for name in ordered_names
    ]


def _curve(places: Sequence[tuple[float, float]]) -> str:
    """A smooth path downwards, from the bottom of the first box to the top of the last."""
    (x, y), *rest = places
    y += BOX_HEIGHT / 2
    text = f"M{x:.0f} {y:.0f}"
    for place, (to_x, to_y) in enumerate(rest):
        end = to_y - BOX_HEIGHT / 2 if place == len(rest) - 1 else to_y
        half = (end - y) / 2
        text += f"C{x:.0f} {y + half:.0f} {to_x:.0f} {end - half:.0f} {to_x:.0f} {end:.0f}"
        x, y = to_x, end
    return text


if __name__ == "__main__":
    PICTURE.write_text(drawn())
