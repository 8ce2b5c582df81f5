"""Models as points: accuracy over the time of a slice."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from ..rendering import plain_ticks
from .colours import FIFTH, MISSED, PREDICTION

# Okabe and Ito's colours and a shape for each family, so that neither is needed alone.
_STYLES = {
    "convolutions": (PREDICTION, "o"),
    "transformer": (MISSED, "s"),
    "hybrid": (FIFTH, "^"),
    "other": ("black", "D"),
}
_DPI = 130
_MARGIN = 1.3
"""Of the axis of time, as a factor."""
# Where a label may stand beside its point, in points of 1/72 inch; the first place that is free is taken.
_PLACES = [
    *((9, 0, "left"), (0, 12, "center"), (0, -13, "center"), (9, 12, "left"), (9, -13, "left")),
    *((-6, 12, "right"), (-6, -13, "right"), (-9, 0, "right"), (0, 24, "center"), (0, -25, "center")),
]


class Point(NamedTuple):
    """A model in the picture."""

    name: str
    family: str
    """convolutions, transformer, hybrid, or other."""
    seconds: float
    """Of a slice by torch."""
    dice: float
    openvino_seconds: float | None = None
    """The same by OpenVINO, where that runs the model."""


def figure_of_tradeoff(points: Sequence[Point]) -> Figure:
    """Draws models as points, filled by torch and hollow by OpenVINO, faster ones on the left.

    Args:
        points: at least one.
    """
    figure = Figure(figsize=(8.2, 5.0), layout="constrained", dpi=_DPI)
    axis = figure.subplots()
    for point in points:
        colour, marker = _STYLES[point.family]
        if point.openvino_seconds is not None:
            axis.plot([point.openvino_seconds, point.seconds], [point.dice] * 2, color=colour, lw=0.8, alpha=0.5)
            axis.plot(point.openvino_seconds, point.dice, marker, mfc="white", mec=colour, ms=8)
        axis.plot(point.seconds, point.dice, marker, color=colour, ms=9)
    _scale(axis, points)
    figure.draw_without_rendering()  # only now are places in pixels known
    _label(axis, points)
    families = [family for family in _STYLES if any(point.family == family for point in points)]
    handles = [axis.plot([], [], _STYLES[family][1], color=_STYLES[family][0], ms=9)[0] for family in families]
    if any(point.openvino_seconds is not None for point in points):
        handles.append(axis.plot([], [], "o", mfc="white", mec="0.3", ms=8)[0])
        families.append("by OpenVINO")
    figure.legend(handles, families, loc="outside lower center", ncols=len(families), frameon=False)
    return figure


def _scale(axis: Axes, points: Sequence[Point]) -> None:
    times = [time for point in points for time in (point.seconds, point.openvino_seconds) if time is not None]
    dice = [point.dice for point in points]
    margin = max(0.15 * (max(dice) - min(dice)), 0.01)
    axis.set(
        xscale="log", xlim=(min(times) / _MARGIN, max(times) * _MARGIN), ylim=(min(dice) - margin, max(dice) + margin)
    )
    axis.set(
        xlabel="seconds per slice, one view, one thread (logarithmic)",
        ylabel="cross-validated mean Dice of slices with vessels",
    )
    plain_ticks(axis.xaxis)
    axis.yaxis.set_major_locator(MaxNLocator(6))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _label(axis: Axes, points: Sequence[Point]) -> None:
    """Puts each name where it covers no point and no other name, as far as there is such a place."""
    taken = []
    for point in points:  # from the mark by OpenVINO to that by torch, with the line between them
        ends = [(time or point.seconds, point.dice) for time in (point.openvino_seconds, point.seconds)]
        (left, y), (right, _) = sorted(axis.transData.transform(ends).tolist())
        taken += [[x - 8, y - 8, x + 8, y + 8] for x in (left, right)] + [[left, y - 3, right, y + 3]]
    frame = axis.get_window_extent()
    for point in sorted(points, key=lambda each: -each.dice):
        colour = _STYLES[point.family][0]
        tried: list[tuple[float, int, Annotation, list[float]]] = []
        for x, y, alignment in _PLACES:
            text = axis.annotate(point.name, (point.seconds, point.dice), (x, y), textcoords="offset points")
            text.set(ha=alignment, va="center", color=colour, fontsize=9)
            box = np.asarray(text.get_window_extent().extents).tolist()
            inside = frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1
            overlaps = sum(_overlap(box, other) for other in taken) + (0 if inside else 1e6)
            tried.append((overlaps, len(tried), text, box))
            if not overlaps:
                break
        *_, chosen, box = min(tried, key=lambda each: each[:2])
        for _, _, text, _ in tried:
            if text is not chosen:
                text.remove()
        taken.append(box)


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The area that two boxes (x0, y0, x1, y1) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)
