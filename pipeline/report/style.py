"""The style and the building blocks of all pictures: panels with axes, or tiles on a canvas.

Every picture is 1,200 pixels wide. Its colours suit colour-blind readers (Okabe & Ito, 2008). Its title states the
result, and a sentence below explains how to read it.
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
WIDTH, DPI = 10.0, 120  # inches, and dots per inch: 1,200 pixels
TOP = 0.85  # inches for title and caption
STYLE: dict[Any, Any] = {  # global: nothing else in this process draws
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


def blank(height: float, title: str, caption: str) -> Figure:
    """Create a figure of that height in inches; its layout starts below title and caption."""
    below_titles = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - TOP / height))
    figure = Figure(figsize=(WIDTH, height), layout=below_titles)
    figure.text(0.01, 1 - 0.12 / height, title, va="top", fontsize=14, fontweight="bold")
    figure.text(0.01, 1 - 0.48 / height, caption, va="top", color=GREY)
    return figure


def panels(
    height: float, rows: int, columns: int, title: str, caption: str, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Create a figure with rows and columns of axes; `ratios` are the relative heights of the rows."""
    figure = blank(height, title, caption)
    return figure, list(figure.subplots(rows, columns, squeeze=False, height_ratios=ratios).flat)


def canvas(height: float, title: str, caption: str) -> tuple[Figure, Axes]:
    """Create a figure with one plane for tiles and text; coordinates are inches, y downwards from below the caption.

    Args:
        height: of the plane, in inches.
        title: the result that the picture shows.
        caption: one sentence that explains how to read it.
    """
    figure = blank(TOP + height, title, caption)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, height / (TOP + height)), xlim=(0, WIDTH), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    return figure, axes


def tile(axes: Axes, picture: ArrayLike, left: float, top: float, side: float, **colours: Any) -> AxesImage:
    """Draw a small square picture on a canvas, sizes in inches; `colours` are colour arguments of `imshow`."""
    extent = (left, left + side, top + side, top)
    return axes.imshow(picture, extent=extent, aspect="auto", interpolation="nearest", **colours)


def picture_tile(axes: Axes, picture: ArrayLike, left: float, top: float, side: float) -> AxesImage:
    """Draw a picture of the data set on a canvas: uint8 [height, width] as grey, [height, width, 3] in colour."""
    return tile(axes, picture, left, top, side, cmap="gray", vmin=0, vmax=255)  # imshow ignores these for colour


def shortened(name: str, longest: int = 16) -> str:
    """A class name that fits next to an axis or below a tile."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def scale(figure: Figure, image: AxesImage, left: float, top: float, height: float, name: str) -> None:
    """Draw the vertical colour scale of an image on a canvas, with its name above; sizes in inches."""
    whole = figure.get_figheight()
    place = (left / WIDTH, 1 - (TOP + top + height) / whole, 0.18 / WIDTH, height / whole)
    bar = figure.colorbar(image, cax=figure.add_axes(place))
    bar.ax.set_title(name, fontsize=9, loc="center")


def render(figure: Figure) -> bytes:
    """Render a figure as a PNG with 256 colours, a third of the size of one with all colours."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})
    reduced = io.BytesIO()
    Image.open(drawn).convert("RGB").quantize(256).save(reduced, "PNG", optimize=True)
    return reduced.getvalue()
