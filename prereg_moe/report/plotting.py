"""Drawings as PDF and PNG, by matplotlib (the extra ``figures``): the same marks in the same places as the SVG.

Fonts are embedded as outlines and no date is written, so one version of matplotlib gives the same
bytes; :func:`plotter` says which one is here, and a seal over figures names the one that drew them.
"""

from __future__ import annotations

import atexit
import io
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from prereg_moe.errors import Invalid, Problem
from prereg_moe.report.drawing import FONT, INKS, OUTLINE, Dot, Dots, Drawing, Label, Line, Rects

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot", "plotter"]

_POINTS = 72.0  # an inch
_DOTS = 220  # of a PNG, an inch
_SETTINGS = {
    "font.family": FONT,
    "pdf.fonttype": 42,  # TrueType: text in a paper's figure stays text
    "pdf.compression": 6,
    "savefig.dpi": _DOTS,
    "path.simplify": False,
    "axes.unicode_minus": True,
}


def plotter() -> str | None:
    """Return the version of matplotlib that is installed, None where there is none."""
    try:
        return version_of("matplotlib")
    except PackageNotFoundError:
        return None


def plot(drawing: Drawing, suffix: str) -> bytes:
    """Return a drawing as a file of a format out of ``pdf`` and ``png``.

    Raises:
        Invalid: matplotlib is not installed.
    """
    if plotter() is None:
        raise Invalid(Problem("--format", f"{suffix} needs matplotlib", "pip install 'prereg-moe[figures]'"))
    matplotlib = import_module("matplotlib")
    import_module("matplotlib.figure")
    out = io.BytesIO()
    dates = {"CreationDate": None, "ModDate": None} if suffix == "pdf" else {"Software": None}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_SETTINGS}):
        figure = matplotlib.figure.Figure(figsize=(drawing.width / _POINTS, drawing.height / _POINTS))
        _Canvas(figure, drawing.height).add(drawing)
        figure.savefig(out, format=suffix, facecolor="white", metadata={"Title": drawing.title, **dates})
    return out.getvalue()


@cache
def _font(weight: str) -> Any:
    """Return the font without tables a figure does not need: embedding it then takes a tenth of the time."""
    from fontTools import subset
    from matplotlib.font_manager import FontProperties, findfont

    options = subset.Options(layout_features=[], drop_tables=["GSUB", "GPOS", "GDEF", "kern", "FFTM"])
    options.recalc_timestamp = False
    path = Path(_folder(), f"{weight}.ttf")
    with subset.load_font(str(findfont(FontProperties(family=FONT, weight=weight))), options) as font:
        few = subset.Subsetter(options)
        few.populate(unicodes=[*range(0x20, 0x530), *range(0x2010, 0x2070), *range(0x2190, 0x2270)])
        few.subset(font)
        subset.save_font(font, str(path), options)
    return FontProperties(fname=path)


@cache
def _folder() -> str:
    folder = mkdtemp(prefix="prereg-moe-fonts-")
    atexit.register(rmtree, folder, ignore_errors=True)
    return folder


class _Canvas:
    """A matplotlib figure whose coordinates are a drawing's: points from the top left."""

    def __init__(self, figure: Figure, height: float) -> None:
        from matplotlib.transforms import Affine2D

        self._figure = figure
        self._transform = Affine2D().scale(1, -1).translate(0, height).scale(1 / _POINTS) + figure.dpi_scale_trans

    def add(self, drawing: Drawing) -> None:
        for order, mark in enumerate(drawing.marks):
            match mark:
                case Line():
                    self._line(mark, order)
                case Dot():
                    self._dot(mark, order)
                case Dots():
                    self._dots(mark, order)
                case Rects():
                    self._rects(mark, order)
                case Label():
                    self._label(mark, order)

    def _line(self, mark: Line, order: int) -> None:
        from matplotlib.lines import Line2D

        style: Any = (0, (4, 3)) if mark.dashed else "solid"
        self._add(
            Line2D([mark.x1, mark.x2], [mark.y1, mark.y2], color=INKS[mark.ink], linewidth=mark.width, linestyle=style),
            order,
        )

    def _dot(self, mark: Dot, order: int) -> None:
        from matplotlib.patches import Circle

        ink = INKS[mark.ink]
        fill = INKS["paper"] if mark.hollow else ink
        edge = {"edgecolor": ink, "linewidth": 1.5} if mark.hollow else {"linewidth": 0.0}
        self._add(Circle((mark.x, mark.y), mark.radius, facecolor=fill, **edge), order)

    def _dots(self, mark: Dots, order: int) -> None:
        from matplotlib.lines import Line2D

        xs, ys = zip(*mark.places, strict=True)
        dots: dict[str, Any] = {
            "marker": "o",
            "markersize": 2 * mark.radius,
            "markeredgewidth": 0.0,
            "linestyle": "none",
        }
        self._add(Line2D(xs, ys, color=INKS[mark.ink], **dots), order)

    def _rects(self, mark: Rects, order: int) -> None:
        from matplotlib.collections import PolyCollection

        corners = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h in mark.boxes]
        ink, alpha = INKS[mark.ink], 0.28 if mark.faint else 1.0
        style: dict[str, Any] = {"facecolors": ink, "linewidths": 0.0}
        if mark.hollow:
            style = {"facecolors": "none", "edgecolors": ink, "linewidths": OUTLINE}
        self._add(PolyCollection(corners, alpha=alpha, **style), order)

    def _label(self, mark: Label, order: int) -> None:
        self._figure.text(
            mark.x,
            mark.y,
            mark.text,
            font=_font("bold" if mark.bold else "normal"),
            transform=self._transform,
            color=INKS[mark.ink],
            fontsize=mark.size,
            rotation=90 if mark.upright else 0,
            rotation_mode="anchor",
            horizontalalignment={"start": "left", "middle": "center", "end": "right"}[mark.anchor],
            verticalalignment="center_baseline" if not mark.upright else "center",
            parse_math=False,
            zorder=order,
        )

    def _add(self, artist: Any, order: int) -> None:
        artist.set_transform(self._transform)
        artist.set_zorder(order)
        self._figure.add_artist(artist)
