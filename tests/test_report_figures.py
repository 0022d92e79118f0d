"""Figures: the same bytes from the same document, well formed, described, and drawn alike by both hands."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from synthetic import enlarged

from prereg_moe import canonical, render, templating
from prereg_moe.errors import Invalid
from prereg_moe.report import context, draw, plotter, plotting
from prereg_moe.report.drawing import INKS, Dot, Dots, Drawing, Label, Line, Rects, number, shade

ROOT = Path(__file__).parents[1]
HOSTILE = "<script>x</script> & \"'\x00\x1b ]]> {{ 1 }}"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def document() -> Any:
    return canonical.read(ROOT / "reports/testbed/verdict.json")


def test_every_figure_says_what_in_which_units_of_how_many_and_with_which_interval(document: Any) -> None:
    for drawing in context(document)["figures"].values():
        if not drawing.name.startswith(("families-", "atlas-")):
            assert "nats per token" in drawing.caption
            assert "n = 60" in drawing.caption
            assert "interval" in drawing.caption
        assert drawing.caption.endswith(".")


def test_every_svg_is_well_formed_and_described(document: Any) -> None:
    made = draw(document, ["svg"])
    assert {"figures/forest-modular.svg", "figures/null-modular.svg", "figures/families-standard.svg"} <= set(made)
    for name, text in made.items():
        root = ET.fromstring(text)
        assert root.get("role") == "img", name
        assert root.find(f"{SVG}title") is not None
        assert root.find(f"{SVG}desc") is not None
        assert b"style=" not in text  # the page's policy admits no inline style
        assert b"-0" not in re.sub(rb">[^<]*<", b"><", text).replace(b"h-0.", b"")  # no minus zero in a coordinate


def test_hostile_names_stay_text_in_a_figure_and_in_its_folder(document: Any) -> None:
    document = copy.deepcopy(document)
    for entry in document["verdicts"]:
        entry["family"] = HOSTILE + entry["family"]
    for family in document["families"]:
        family["model"] = f"../../{HOSTILE}"
        family["name"] = HOSTILE
    for name, text in draw(document, ["svg"]).items():
        ET.fromstring(text)
        assert b"<script" not in text
        assert re.fullmatch(r"figures/[A-Za-z0-9_-]+\.svg", name)


def test_the_same_document_gives_the_same_figures(document: Any) -> None:
    again = canonical.loads(canonical.dumps(document))
    assert draw(document, ["svg"]) == draw(again, ["svg"])


@pytest.mark.skipif(plotter() is None, reason="matplotlib is not installed: PDF and PNG are drawn by it")
@pytest.mark.parametrize("suffix", ["pdf", "png"])
def test_matplotlib_gives_the_same_bytes_and_no_date(suffix: str, document: Any) -> None:
    drawing = context(document)["figures"]["null-modular"]
    made = plotting.plot(drawing, suffix)
    assert made == plotting.plot(drawing, suffix)
    assert not re.search(rb"CreationDate|ModDate|tIME", made)
    if suffix == "pdf":
        assert b"/FontFile2" in made, "fonts are embedded"
        assert b"/Type3" not in made, "and are TrueType, as journals ask"


@pytest.mark.skipif(plotter() is None, reason="matplotlib is not installed: PDF and PNG are drawn by it")
def test_both_hands_draw_every_kind_of_mark_in_the_same_place() -> None:
    import io

    import numpy as np
    from matplotlib.image import imread

    marks = (
        Rects(((10, 20, 30, 10),), "on"),
        Dot(80, 25, 5, "off"),
        Dots(((110, 25), (120, 25)), 3, "CONFIRMED"),
        Line(10, 60, 90, 60, "text", 4),
        Label(10, 85, "x", "text"),
        Dot(140, 60, 6, "off", hollow=True),
    )
    image = imread(io.BytesIO(plotting.plot(Drawing("d", "t", "c", 160, 100, marks), "png")))
    dots = image.shape[1] / 160

    def ink(x: float, y: float) -> str:
        return "#" + "".join(f"{round(255 * part):02x}" for part in image[int(y * dots), int(x * dots), :3])

    assert [ink(25, 25), ink(80, 25), ink(120, 25), ink(50, 60)] == [
        INKS[name] for name in ("on", "off", "CONFIRMED", "text")
    ]
    assert ink(140, 60) == "#ffffff"
    assert ink(5, 5) == "#ffffff"
    assert image.shape[0] == int(np.ceil(100 * dots)) or image.shape[0] == int(100 * dots)


def test_without_matplotlib_pdf_is_refused_with_what_to_do(document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotting, "plotter", lambda: None)
    with pytest.raises(Invalid, match=r"pip install 'prereg-moe\[figures\]'"):
        draw(document, ["pdf"])


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0, "1"), (-0.001, "0"), (10.0, "10"), (2.345, "2.35"), (-1.5, "-1.5"), (100.0, "100")]
)
def test_coordinates_are_short(value: float, shown: str) -> None:
    assert number(value) in (shown, shown.replace("2.35", "2.34"))


@pytest.mark.parametrize(
    ("value", "ink"), [(0.0, "harm0"), (1.0, "harm4"), (-1.0, "help4"), (0.19, "harm0"), (-0.5, "help2")]
)
def test_shades_tell_harm_from_help(value: float, ink: str) -> None:
    assert shade(value, 1.0) == ink
    assert shade(value, 0.0) in ("harm0", "help0")


def test_a_report_of_128_experts_32_layers_and_6_axes_stays_small(document: Any) -> None:
    large = enlarged(document, axes=6, layers=32, experts=128, size=16, draws=999)
    assert len(canonical.dumps(large)) < 5_000_000
    page = render(large, templating.reports()["report.html.j2"], "html")
    assert 100_000 < len(page.encode()) < 5_000_000
    assert sum(len(text) for text in draw(large, ["svg"]).values()) < 3_000_000


def routed(document: Any, table: list[list[float]], cells: Any) -> Drawing:
    """Return the heat map of a model of one axis, with one family."""
    document = copy.deepcopy(document)
    axis = next(iter(document["study"]["axes"]))
    layers = list(range(10, 10 + len(table)))
    document["atlas"] = {"standard": {"layers": layers, "experts": len(table[0]), "axes": {axis: table}}}
    document["families"] = [
        {"model": "standard", "name": "f", "axis": axis, "cells": cells, "share": 0.5, "uniform": 0.25},
        {"model": "planted", "name": "f", "axis": axis, "cells": [[10, [0]]], "share": 0.5, "uniform": 0.25},
    ]
    found: Drawing = context(document)["figures"]["atlas-standard"]
    return found


def covered(drawing: Drawing, ink: str, rows: int, experts: int) -> set[tuple[int, int]]:
    """Return the (row, expert) whose middle lies in a rectangle of an ink, by where the panel's frame is."""
    frame = [mark for mark in drawing.marks if isinstance(mark, Rects) and mark.hollow and mark.ink == "grid"][-1]
    left, top, width, height = frame.boxes[0]
    boxes = [
        box
        for mark in drawing.marks[drawing.marks.index(frame) - 12 :]
        if isinstance(mark, Rects) and mark.ink == ink and mark is not frame
        for box in mark.boxes
    ]
    return {
        (row, expert)
        for row in range(rows)
        for expert in range(experts)
        for x, y in [(left + width * (expert + 0.5) / experts, top + height * (row + 0.5) / rows)]
        if any(bx < x < bx + w and by < y < by + h for bx, by, w, h in boxes)
    }


def test_a_heat_map_shades_multiples_of_the_uniform_share_and_outlines_the_axis_own_family(document: Any) -> None:
    table = [[0.0, 0.0, 0.75, 0.25], [0.26, 0.24, 0.49, 0.01], [0.25, 0.25, 0.25, 0.25]]
    drawing = routed(document, table, [[10, [2]], [12, [0, 1, 3]]])
    below_the_key = tuple(mark for mark in drawing.marks if not isinstance(mark, Rects) or mark.boxes[0][1] > 20)
    panel = Drawing("p", "t", "c", 1, 1, below_the_key)
    shown = {ink: covered(panel, ink, 3, 4) for ink in ("help2", "help1", "harm0", "harm1", "harm2")}
    assert shown["help2"] == {(0, 0), (0, 1), (1, 3)}
    assert shown["help1"] == set()
    assert shown["harm0"] == set(), "what is just below uniform is the page"
    assert shown["harm2"] == {(0, 2)}, "three times the uniform share"
    assert shown["harm1"] == {(0, 3), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3)}, "at least uniform, below twice"
    assert covered(panel, "text", 3, 4) == {(0, 2), (2, 0), (2, 1), (2, 3)}, "of this model only"


def test_a_heat_map_says_what_it_shows_of_how_many_and_why_without_interval(document: Any) -> None:
    drawing = routed(document, [[0.5, 0.5]], [[10, [1]]])
    sampled = document["study"]["atlas"]
    assert f"n = {sampled['items']} items an axis of corpus {sampled['corpus']}" in drawing.caption
    assert "multiple of the uniform share 1/2" in drawing.caption
    assert "no interval" in drawing.caption
    root = ET.fromstring(drawing.svg)
    assert [root.findtext(f"{SVG}{part}") for part in ("title", "desc")] == [drawing.title, drawing.caption]


def test_heat_maps_are_on_the_page_and_the_same_bytes_again(document: Any) -> None:
    large = enlarged(document, axes=2, layers=4, experts=8, size=2)
    page = render(large, templating.reports()["report.html.j2"], "html")
    for model in ("standard", "planted", "randomised"):
        assert f'id="fig-atlas-{model}"' in page
        again = canonical.loads(canonical.dumps(large))
        assert draw(large, ["svg"])[f"figures/atlas-{model}.svg"] == draw(again, ["svg"])[f"figures/atlas-{model}.svg"]


@pytest.mark.skipif(plotter() is None, reason="matplotlib is not installed: PDF and PNG are drawn by it")
def test_both_hands_draw_outlines_only_where_rectangles_are_hollow() -> None:
    import io

    from matplotlib.image import imread

    drawing = Drawing("d", "t", "c", 60, 60, (Rects(((10, 10, 40, 40),), "on", hollow=True),))
    assert 'fill="none"' in drawing.svg
    image = imread(io.BytesIO(plotting.plot(drawing, "png")))
    dots = image.shape[1] / 60
    assert image[int(30 * dots), int(30 * dots), :3].tolist() == [1, 1, 1]
    assert image[int(30 * dots), int(10 * dots), :3].max() < 1
