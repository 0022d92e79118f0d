"""Figures: the same bytes from the same document, well formed, described, and drawn alike by both hands."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from synthetic import enlarged

from prereg_moe import canonical, render
from prereg_moe.errors import Invalid
from prereg_moe.freezing import TEMPLATES
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
        if not drawing.name.startswith("families-"):
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
    page = render(large, (TEMPLATES / "report.html.j2").read_text("utf-8"), "html")
    assert 100_000 < len(page.encode()) < 5_000_000
    assert sum(len(text) for text in draw(large, ["svg"]).values()) < 2_000_000
