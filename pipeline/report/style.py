"""The style of all pictures, and what they are made of: panels with axes, or tiles on a canvas.

One style for all: 1,200 pixels wide, colours that colour-blind readers tell apart (Okabe & Ito, 2008), and a title
that says what to see, with a sentence below it that says how to read it.
"""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike
from PIL import Image

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#595959"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", GREY)
MARKERS = "osD^vPX*"
WIDTH, DPI = 10.0, 120  # inches, and dots an inch: 1,200 pixels
TOP = 0.85  # inches, for the two titles
STYLE: dict[Any, Any] = {  # of all figures: nothing else here draws
    "axes.edgecolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.dpi": DPI,
    "font.size": 11,
    "savefig.dpi": DPI,
}
mpl.rcParams.update(STYLE)


def blank(height: float, title: str, what_to_see: str) -> Figure:
    """A figure of that height in inches, with its titles; what is drawn in it is laid out below them."""
    below_titles = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - TOP / height))
    figure = Figure(figsize=(WIDTH, height), layout=below_titles)
    figure.text(0.01, 1 - 0.12 / height, title, va="top", fontsize=14, fontweight="bold")
    figure.text(0.01, 1 - 0.48 / height, what_to_see, va="top", color=GREY)
    return figure


def panels(
    height: float, rows: int, columns: int, title: str, what_to_see: str, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure with rows and columns of axes; `ratios` are those of the rows' heights."""
    figure = blank(height, title, what_to_see)
    return figure, list(figure.subplots(rows, columns, squeeze=False, height_ratios=ratios).flat)


def canvas(height: float, title: str, what_to_see: str) -> tuple[Figure, Axes]:
    """A figure with one plane for tiles and words: its coordinates are inches, y downwards from below the titles.

    Args:
        height: of the plane, in inches.
        title: what there is to see.
        what_to_see: how to read it, in a sentence.
    """
    figure = blank(TOP + height, title, what_to_see)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, height / (TOP + height)), xlim=(0, WIDTH), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    return figure, axes


def tile(axes: Axes, picture: ArrayLike, left: float, top: float, side: float, **colours: Any) -> AxesImage:
    """A small square picture on a canvas; `colours` are those of `imshow`. Places and sizes are inches."""
    extent = (left, left + side, top + side, top)
    return axes.imshow(picture, extent=extent, aspect="auto", interpolation="nearest", **colours)


def scale(figure: Figure, image: AxesImage, left: float, top: float, height: float, name: str) -> None:
    """The colour scale of an image, upright on a canvas, with its name above. Places and sizes are inches."""
    whole = figure.get_figheight()
    place = (left / WIDTH, 1 - (TOP + top + height) / whole, 0.18 / WIDTH, height / whole)
    bar = figure.colorbar(image, cax=figure.add_axes(place))
    bar.ax.set_title(name, fontsize=9, loc="center")


def render(figure: Figure) -> bytes:
    """The figure as a PNG of 256 colours, a third of the size that it has with all."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})
    reduced = io.BytesIO()
    Image.open(drawn).convert("RGB").quantize(256).save(reduced, "PNG", optimize=True)
    return reduced.getvalue()
