"""Slices → figures in which found and missed vessels are outlined, so that the anatomy under them stays visible."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..data.organ import organ_box
from ..scoring.metrics import dice_counts, dice_from_counts
from .colours import FALSE_ALARM, FOUND, LABEL, MISSED, PREDICTION
from .report import SegmentedSlice, to_display

ZOOM = 4
"""How many times as large the close look is."""
SMALLEST = 4
"""Pixels of the smallest vessel that is looked at closely; less is a speck."""
_DPI = 120
_PANEL = 4.6  # inches
Box = tuple[int, int, int, int]
"""Top, bottom, left, right of a part of a slice, as for slicing."""
_KINDS = {"found, to a pixel": FOUND, "missed": MISSED, "false alarm": FALSE_ALARM}
_DOTTED = (0, (2, 0.8))
"""False alarms: for who cannot tell their yellow from the darker one that vermillion is to them."""
_MUCH = 0.05
"""Share of a picture from which on an error is hatched: the outline of what covers half of it says little."""


def figure_of_slices(slices: Sequence[SegmentedSlice], panel: float = _PANEL, plain: bool = True) -> Figure:
    """Draws slices, a row each, cropped to the organ: the image, its vessels outlined, and a part of it larger.

    Where there is a label, found, missed and falsely found pixels have outlines of their own and the Dice is given;
    else the prediction has. The close look is at the smallest vessel.

    Args:
        slices: at least one.
        panel: width of each picture in inches.
        plain: also show each slice without outlines.
    """
    boxes = [crop(each) for each in slices]
    heights = [(bottom - top) / (right - left) for top, bottom, left, right in boxes]
    columns = 3 if plain else 2
    size = (columns * panel, panel * sum(heights) + 0.45 * len(slices) + 0.35)
    figure = Figure(figsize=size, layout="constrained", dpi=_DPI)
    axes = figure.subplots(len(slices), columns, squeeze=False, height_ratios=heights)
    for (*untouched, whole, close), each, box in zip(axes, slices, boxes, strict=True):
        display, frame = to_display(each.image), close_look(each, box)
        for axis in (*untouched, whole):
            _show(axis, display, box)
            axis.set_title(each.slice_id, fontsize=10)
        _show(close, display, frame)
        outline_errors(whole, each, 1.0)
        outline_errors(close, each, 1.6)
        top, bottom, left, right = frame
        whole.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor="white", linewidth=1)
        )
        whole.set_title(describe(each), fontsize=10)
        close.set_title(f"the white frame, {ZOOM} times as large", fontsize=10)
    legend(figure, slices)
    return figure


def figure_of_predictions(rows: Sequence[Sequence[SegmentedSlice]], names: Sequence[str]) -> Figure:
    """Draws several models beside each other, a row per slice: its label, and each model's errors, outlined.

    Args:
        rows: per slice, what each of M models made of it; labelled.
        names: of the M models.
    """
    boxes = [organ_box(row[0].image, [each.label for each in row]) for row in rows]
    heights = [(bottom - top) / (right - left) for top, bottom, left, right in boxes]
    columns = 1 + len(names)
    size = (_PANEL * columns, _PANEL * sum(heights) + 0.6 * len(rows) + 0.4)
    figure = Figure(figsize=size, layout="constrained", dpi=_DPI)
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for line, row, box in zip(axes, rows, boxes, strict=True):
        display = to_display(row[0].image)
        for axis in line:
            _show(axis, display, box)
        _outline(line[0], row[0].label, LABEL, 1.0)
        line[0].set_title(f"{row[0].slice_id}\nlabel, {np.count_nonzero(row[0].label):,} px", fontsize=11)
        for axis, name, each in zip(line[1:], names, row, strict=True):
            outline_errors(axis, each, 1.0)
            axis.set_title(f"{name}\n{describe(each)}", fontsize=11)
    legend(figure, rows[0], {"label": LABEL})
    return figure


def describe(segmented: SegmentedSlice) -> str:
    """What the outlines of a slice add up to, as its title."""
    if segmented.mask_gt is None:
        return f"{np.count_nonzero(segmented.mask_pred):,} vessel pixels, outlined"
    pixels_gt, pixels_pred, both = dice_counts(segmented.mask_gt, segmented.mask_pred)
    return (
        f"Dice {dice_from_counts(pixels_gt, pixels_pred, both):.3f}: {both:,} px found, {pixels_gt - both:,} missed, "
        f"{pixels_pred - both:,} false"
    )


def outline_errors(axis: Axes, segmented: SegmentedSlice, linewidth: float) -> None:
    """Draws the edges of what was found, missed and falsely found; of the prediction where there is no label.

    A vessel whose edge lies a pixel off is found: what is drawn as missed or false is more than a pixel away from
    what was found.
    """
    mask_gt, mask_pred = segmented.mask_gt, segmented.mask_pred
    if mask_gt is None:
        _outline(axis, mask_pred, PREDICTION, linewidth + 0.3)
        return
    near = cv2.dilate((mask_gt & mask_pred).view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_)
    # What is missed comes last: where two edges meet, its is seen.
    parts = ((mask_gt & near, FOUND), (mask_pred & ~mask_gt & ~near, FALSE_ALARM), (mask_gt & ~near, MISSED))
    for mask, colour in parts:
        _outline(axis, mask, colour, linewidth)
        if colour != FOUND and mask.sum() > _MUCH * abs(np.ptp(axis.get_xlim()) * np.ptp(axis.get_ylim())):
            _hatch(axis, mask, colour)


def crop(segmented: SegmentedSlice) -> Box:
    """The organ, and all that label and prediction mark."""
    masks = [mask for mask in (segmented.mask_gt, segmented.mask_pred) if mask is not None]
    return organ_box(segmented.image, masks)


def close_look(segmented: SegmentedSlice, box: Box) -> Box:
    """Where to look closely: a quarter of a box each way, with its smallest vessel well inside and many others.

    Args:
        segmented: its label's vessels count, or the prediction's where there is none.
        box: the part of the slice that is shown.
    """
    top, bottom, left, right = box
    height, width = (max(-(-side // ZOOM), 1) for side in (bottom - top, right - left))
    mask = segmented.mask_pred if segmented.mask_gt is None else segmented.mask_gt
    at_y, at_x = _smallest_vessel(mask[top:bottom, left:right])
    # In its middle half, as far as the box goes on there.
    tops = _places(at_y, height, bottom - top)
    lefts = _places(at_x, width, right - left)
    total = np.pad(mask[top:bottom, left:right], ((1, 0), (1, 0))).cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)
    lower, further = tops + height, lefts + width
    inside = total[np.ix_(lower, further)] - total[np.ix_(tops, further)]
    inside = inside - total[np.ix_(lower, lefts)] + total[np.ix_(tops, lefts)]
    places = np.argwhere(inside == inside.max())
    row, column = places[np.abs(places - places.mean(0)).sum(1).argmin()].tolist()  # the middle one shows vessels whole
    first_row, first_column = top + int(tops[row]), left + int(lefts[column])
    return first_row, first_row + height, first_column, first_column + width


def legend(figure: Figure, slices: Sequence[SegmentedSlice], further: dict[str, str] | None = None) -> None:
    """Says below a figure what the colours of its outlines are."""
    named = dict(further or {})
    if any(each.mask_gt is not None for each in slices):
        named |= _KINDS
    if any(each.mask_gt is None for each in slices):
        named |= {"prediction": PREDICTION}
    lines = [Line2D([], [], color=colour, linewidth=2.5, linestyle=_style(colour)) for colour in named.values()]
    figure.legend(lines, list(named), loc="outside lower center", ncols=len(named), frameon=False)


def _style(colour: str) -> Any:
    return _DOTTED if colour == FALSE_ALARM else "solid"


def _smallest_vessel(mask: np.ndarray) -> tuple[int, int]:
    """The middle of the smallest vessel that is no speck; of the picture where there is none."""
    height, width = mask.shape
    count, _, stats, centres = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask).view(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    vessels = [at for at in range(1, count) if areas[at] >= SMALLEST] or list(range(1, count))
    if not vessels:
        return height // 2, width // 2
    x, y = centres[min(vessels, key=lambda at: areas[at])]
    return round(float(y)), round(float(x))


def _places(at: int, length: int, whole: int) -> np.ndarray:
    """Where a window of a length may begin for a point to lie in its middle half, or as near to it as there is room."""
    first, last = at - 3 * length // 4, at - length // 4
    return np.unique(np.arange(first, last + 1).clip(0, whole - length))


def _show(axis: Axes, display: np.ndarray, part: Box) -> None:
    """Shows a part of a picture, without a frame."""
    top, bottom, left, right = part
    axis.imshow(display, interpolation="antialiased")
    axis.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))
    axis.set_axis_off()


def _outline(axis: Axes, mask: np.ndarray, colour: str, linewidth: float) -> None:
    """Draws the edge of a mask as a line whose width does not depend on the size of the slice."""
    if not mask.any():
        return
    height, width = mask.shape
    padded = np.pad(mask, 1).astype(np.uint8)  # a vessel at the border is closed there
    at = np.arange(-1, width + 1), np.arange(-1, height + 1)
    axis.contour(*at, padded, levels=[0.5], colors=colour, linewidths=linewidth, linestyles=[_style(colour)])


def _hatch(axis: Axes, mask: np.ndarray, colour: str) -> None:
    """Draws slanted lines over a mask, between which the anatomy stays visible."""
    height, width = mask.shape
    padded = np.pad(mask, 1).astype(np.uint8)
    at = np.arange(-1, width + 1), np.arange(-1, height + 1)
    hatched = axis.contourf(*at, padded, levels=[0.5, 1.5], colors="none", hatches=["//"])
    hatched.set(edgecolor=colour, linewidth=0)
