"""Vessels → pictures: how much length has which radius, and the tree coloured by radius."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from ..rendering import BLUE, plain_ticks
from .measure import Vessels

_BINS = 24
_DPI = 130
# Viridis is told apart with every kind of colour blindness; its yellow would be lost on white.
_COLOURS = ListedColormap(colormaps["viridis"](np.linspace(0, 0.85, 256)))
_THINNEST = 0.4  # points


def figure_of_radii(vessels: Vessels) -> Figure:
    """A histogram: the length of vessels by radius, in bins of equal ratio."""
    figure = Figure((6, 3.6), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    unit, long_unit, scale = _units(vessels)
    radius, length = _pieces(vessels)
    if len(radius):
        low, high = radius.min() * 0.999, radius.max() * 1.001
        axes.hist(
            radius, np.geomspace(low, high, _BINS + 1).tolist(), weights=length * scale, color=BLUE, edgecolor="white"
        )
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
    axes.set(xlabel=f"radius ({unit})", ylabel=f"length of vessels ({long_unit})")
    axes.set_title(_title(vessels), loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def figure_of_tree(vessels: Vessels) -> Figure:
    """The centre lines from the front and from above, as wide as the vessels are and coloured by their radius."""
    _, long_unit, scale = _units(vessels)
    depth, height, width = (np.array(vessels.totals["shape"]) * vessels.spacing * scale).tolist()
    figure = Figure((11, 1.2 + 4.6 * max(height, depth) / width), dpi=_DPI, layout="constrained")
    figure.set_size_inches(11, min(max(figure.get_figheight(), 3.5), 9))
    views = ((1, 2, 0, height, "along z"), (0, 2, 1, depth, "along y"))
    radius, _ = _pieces(vessels)
    norm = LogNorm(radius.min(), max(radius.max(), radius.min() * 1.01)) if len(radius) else LogNorm(1, 2)
    panels = figure.subplots(1, 2)
    for axes, (row, column, _, rows, name) in zip(panels, views, strict=True):
        axes.set(xlim=(0, width), ylim=(rows, 0), aspect="equal", title=f"seen {name}")
        axes.set(xlabel=f"{'zyx'[column]} ({long_unit})", ylabel=f"{'zyx'[row]} ({long_unit})")
    figure.draw_without_rendering()  # the scale of the panels decides how wide lines are
    for axes, (row, column, away, _, _) in zip(panels, views, strict=True):
        if len(radius):
            axes.add_collection(_lines(axes, vessels, (column, row, away), norm, scale))
    bar = figure.colorbar(ScalarMappable(norm, _COLOURS), ax=panels, label=f"radius ({_units(vessels)[0]})", shrink=0.8)
    plain_ticks(bar.ax.yaxis)
    figure.suptitle(_title(vessels), x=0.01, ha="left", fontsize=9)
    return figure


def _lines(axes: Axes, vessels: Vessels, order: tuple[int, int, int], norm: LogNorm, scale: float) -> LineCollection:
    """All pieces of centre lines as seen along the last of three axes, near ones over far ones."""
    points = [segment.points[:, order] * scale for segment in vessels.segments]
    pieces = np.concatenate([np.stack([each[:-1], each[1:]], axis=1) for each in points])  # (P, 2, 3)
    radius, _ = _pieces(vessels)
    origin, one = axes.transData.transform([(0, 0), (1, 0)])
    points_per_unit = float(one[0] - origin[0]) * 72 / axes.figure.dpi
    widths = np.maximum(2 * radius * scale * points_per_unit, _THINNEST)
    back_to_front = np.argsort(-pieces[:, :, 2].mean(axis=1), kind="stable")
    return LineCollection(
        pieces[back_to_front, :, :2],
        linewidths=widths[back_to_front],
        array=radius[back_to_front],
        cmap=_COLOURS,
        norm=norm,
        capstyle="round",
    )


def _pieces(vessels: Vessels) -> tuple[np.ndarray, np.ndarray]:
    """The radius and length of every piece of the centre lines, two (P,) float64."""
    radius = [(segment.radius[1:] + segment.radius[:-1]) / 2 for segment in vessels.segments]
    return np.concatenate([[], *radius]), np.concatenate([[], *(segment.steps for segment in vessels.segments)])


def _units(vessels: Vessels) -> tuple[str, str, float]:
    """The unit of radii, that of lengths, and how much of the latter one of the former is."""
    return ("µm", "mm", 1e-3) if vessels.unit == "um" else ("voxels", "voxels", 1.0)


def _title(vessels: Vessels) -> str:
    _, long_unit, scale = _units(vessels)
    totals = vessels.totals
    length = totals[f"total_length_{vessels.unit}"] * scale
    return (
        f"{length:,.0f} {long_unit} of vessels in {totals['segments']:,} segments, "
        f"{totals['branch_points']:,} branch points, {totals['vessel_fraction']:.2%} of the volume"
    )
