"""Pictures and tables of results."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..data.padding import crop_padding
from ..data.volume import Volume
from ..scoring.metrics import dice_counts, dice_from_counts
from ..submission.rle import rle_decode

_HIT, _MISS, _FALSE_ALARM, _PREDICTION = (0.25, 0.85, 0.35), (1.0, 0.25, 0.25), (1.0, 0.75, 0.1), (1.0, 0.3, 0.25)
# Vermillion of Okabe and Ito's palette for colour-blind readers; of its colours the clearest on bright walls.
_OUTLINE = "#D55E00"
_ZOOM = 6
_COLUMNS = 4
# Of a kidney in the test set that Kaggle shows; the one that it scores has hundreds.
_PLACEHOLDER_SLICES = 3
_DPI = 110


@dataclass(frozen=True)
class SegmentedSlice:
    """One slice with what was predicted and, where there is one, its label."""

    slice_id: str
    image: np.ndarray
    """(H, W) uint8 or uint16."""
    mask_pred: np.ndarray
    """(H, W) bool."""
    mask_gt: np.ndarray | None = None
    """(H, W) bool."""

    @property
    def label(self) -> np.ndarray:
        """The mask of a slice that is labelled; ValueError for any other."""
        if self.mask_gt is None:
            raise ValueError(f"slice {self.slice_id} must be labelled")
        return self.mask_gt


def segmented_slice(volume: Volume, z: int, rles: Mapping[str, str]) -> SegmentedSlice:
    """Puts one slice of a submission beside its image and, where there is one, its label.

    Args:
        volume: the kidney.
        z: the slice's index in it.
        rles: run-length encodings by slice id.
    """
    slice_id, image = volume.slice_ids[z], volume[z]
    mask_gt = volume.label(z) if volume.is_labelled(z) else None
    return SegmentedSlice(slice_id, image, rle_decode(rles[slice_id], *image.shape), mask_gt)


def spread(places: Sequence[Any], wanted: int = 4) -> list[Any]:
    """At most so many of some places, evenly from the first to the last: what is drawn of many slices."""
    chosen = np.unique(np.linspace(0, len(places) - 1, wanted).round().astype(int))
    return [places[at] for at in chosen.tolist()]


def score_table(slice_ids: Sequence[str], counts: Sequence[tuple[int, int, int]]) -> pd.DataFrame:
    """Dice per slice, then their mean and the pooled Dice.

    Args:
        slice_ids: S names.
        counts: S results of `dice_counts`.

    Returns:
        S + 2 rows, columns slice, dice, vessel_px, predicted_px, common_px; the pixels of the row "mean"
        are missing.
    """
    rows: list[tuple[Any, ...]] = [
        (slice_id, dice_from_counts(*row), *row) for slice_id, row in zip(slice_ids, counts, strict=True)
    ]
    pooled = tuple(int(total) for total in np.sum(counts, axis=0))
    rows.append(("mean", float(np.mean([row[1] for row in rows])), None, None, None))
    rows.append(("pooled", dice_from_counts(*pooled), *pooled))
    table = pd.DataFrame(rows, columns=["slice", "dice", "vessel_px", "predicted_px", "common_px"])
    return table.astype({"vessel_px": "Int64", "predicted_px": "Int64", "common_px": "Int64"})


def figure_of_slices(slices: Sequence[SegmentedSlice]) -> Figure:
    """Draws slices: image, prediction and, where there is a label, the label and the errors with the Dice.

    Args:
        slices: at least one. A labelled slice takes a row of four panels; unlabelled ones share a row by twos.
    """
    panels = [panel for segmented in slices for panel in _panels(segmented)]
    columns = min(_COLUMNS, len(panels))
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    heights = [max(picture.shape[0] / picture.shape[1] for _, picture in row) for row in rows]
    figure = Figure(figsize=(4.0 * columns, 4.0 * sum(heights) + 0.4 * len(rows)), layout="constrained", dpi=_DPI)
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, picture) in zip(axes.flat, panels, strict=False):
        axis.imshow(picture, interpolation="antialiased")
        axis.set_title(title, fontsize=9)
    return figure


def figure_of_outlines(slices: Sequence[SegmentedSlice]) -> Figure:
    """Draws slices with the edge of the predicted mask, a row each: the whole slice, and where it has most vessels.

    Args:
        slices: at least one.
    """
    heights = [each.image.shape[0] / each.image.shape[1] for each in slices]
    figure = Figure(figsize=(9.0, 4.5 * sum(heights) + 0.25 * len(slices)), layout="constrained", dpi=_DPI)
    axes = figure.subplots(len(slices), 2, squeeze=False, height_ratios=heights)
    for (whole, close), each in zip(axes, slices, strict=True):
        display, (top, left, height, width) = to_display(each.image), busiest_window(each.mask_pred)
        for axis in (whole, close):
            axis.imshow(display, interpolation="antialiased")
            _outline(axis, each.mask_pred)
            axis.set_axis_off()
        whole.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor="white", linewidth=1))
        close.set(xlim=(left - 0.5, left + width - 0.5), ylim=(top + height - 0.5, top - 0.5))
        whole.set_title(f"{each.slice_id}, {np.count_nonzero(each.mask_pred):,} vessel pixels, outlined", fontsize=9)
        close.set_title(f"the white frame, {_ZOOM} times as large", fontsize=9)
    return figure


def busiest_window(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Where a slice has most vessels: the place for a close look.

    Args:
        mask: (H, W) bool.

    Returns:
        Top, left, height and width of a window that is a sixth as high and as wide as the slice, and lies in it.
    """
    height, width = (-(-size // _ZOOM) for size in mask.shape)
    total = np.pad(mask, ((1, 0), (1, 0))).cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)
    inside = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    places = np.argwhere(inside == inside.max())
    top, left = places[np.abs(places - places.mean(0)).sum(1).argmin()].tolist()  # the middle one shows vessels whole
    return top, left, height, width


def placeholder_note(slices: Iterable[int]) -> str:
    """What to say of a test set that looks like the one which Kaggle only shows; empty for any other.

    Args:
        slices: of each kidney.
    """
    slices = list(slices)
    if not slices or max(slices) > _PLACEHOLDER_SLICES:
        return ""
    return (
        f"**No kidney here has more than {_PLACEHOLDER_SLICES} slices.** These are probably the placeholders of the "
        f"visible test set, and whole kidneys take their place when Kaggle scores the notebook. So the counts and the "
        f"picture show that the notebook runs, but not how well it will score."
    )


def figure_of_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Draws training runs: the loss on the left, Dice on the right.

    Args:
        histories: by the run's name ("" for one without), tables with the columns epoch, loss, dice_soft and
            held_out_dice (missing where the held-out slices were not looked at).
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained", dpi=_DPI)
    loss_axis, dice_axis = figure.subplots(1, 2)
    for index, (name, history) in enumerate(histories.items()):
        colour = f"C{index}"
        marker = "o" if len(history) == 1 else None
        loss_axis.plot(history["epoch"], history["loss"], color=colour, marker=marker, label=name)
        dice_axis.plot(history["epoch"], history["dice_soft"], ":", color=colour, marker=marker)
        looked = history.dropna(subset="held_out_dice")
        dice_axis.plot(looked["epoch"], looked["held_out_dice"], color=colour, marker="o", markersize=3, label=name)
    loss_axis.set(xlabel="epoch", ylabel="training loss", yscale="log")
    dice_axis.set(xlabel="epoch", ylabel="Dice", ylim=(0, 1), title="solid: held-out masks, dotted: training, soft")
    for axis in (loss_axis, dice_axis):
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
    if any(histories):
        figure.legend(*loss_axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def figure_of_predictions(rows: Sequence[Sequence[SegmentedSlice]], names: Sequence[str]) -> Figure:
    """Draws several models beside each other: per slice the image, its label, and each model's errors.

    Args:
        rows: per slice, what each of M models made of it; labelled.
        names: of the M models.
    """
    heights = [row[0].image.shape[0] / row[0].image.shape[1] for row in rows]
    columns = 2 + len(names)
    figure = Figure(figsize=(3.0 * columns, 3.0 * sum(heights) + 0.5 * len(rows)), layout="constrained", dpi=_DPI)
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for line, row in zip(axes, rows, strict=True):
        display = to_display(row[0].image)
        pictures = [(row[0].slice_id, display), ("label", _paint(display, [(row[0].label, _HIT)]))]
        pictures += [(f"{name}\nDice {_dice(one):.3f}", _errors(one)) for name, one in zip(names, row, strict=True)]
        for axis, (title, picture) in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation="antialiased")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    return figure


def to_display(image: np.ndarray) -> np.ndarray:
    """(H, W) grey values → (H, W, 3) float in 0..1, stretched between the 0.5 and 99.8 percentiles without padding."""
    low, high = np.percentile(crop_padding(image)[::2, ::2], (0.5, 99.8))
    grey = ((image - low) / max(high - low, 1)).clip(0, 1)
    return np.repeat(grey[..., None], 3, axis=2)


def _panels(segmented: SegmentedSlice) -> list[tuple[str, np.ndarray]]:
    """Title and picture of each panel of a slice."""
    display = to_display(segmented.image)
    mask_gt, mask_pred = segmented.mask_gt, segmented.mask_pred
    panels = [
        (segmented.slice_id, display),
        (f"prediction, {mask_pred.sum():,} px", _paint(display, [(mask_pred, _PREDICTION)])),
    ]
    if mask_gt is not None:
        panels += [
            (f"label, {mask_gt.sum():,} px", _paint(display, [(mask_gt, _HIT)])),
            (f"Dice {_dice(segmented):.3f}: hit green, missed red, false yellow", _errors(segmented)),
        ]
    return panels


def _outline(axis: Axes, mask: np.ndarray) -> None:
    """Draws the edge of a mask as a line whose width does not depend on the size of the slice."""
    if not mask.any():
        return
    height, width = mask.shape
    padded = np.pad(mask, 1).astype(np.uint8)  # a vessel at the border is closed there
    at = np.arange(-1, width + 1), np.arange(-1, height + 1)
    axis.contour(*at, padded, levels=[0.5], colors=_OUTLINE, linewidths=1.1)


def _dice(segmented: SegmentedSlice) -> float:
    return dice_from_counts(*dice_counts(segmented.label, segmented.mask_pred))


def _errors(segmented: SegmentedSlice) -> np.ndarray:
    """The slice with hits, misses and false alarms in their colours."""
    mask_gt, mask_pred = segmented.label, segmented.mask_pred
    layers = [(mask_gt & mask_pred, _HIT), (mask_gt & ~mask_pred, _MISS), (mask_pred & ~mask_gt, _FALSE_ALARM)]
    return _paint(to_display(segmented.image), layers)


def _paint(display: np.ndarray, layers: Sequence[tuple[np.ndarray, tuple[float, float, float]]]) -> np.ndarray:
    painted = display.copy()
    for mask, colour in layers:
        painted[mask] = colour
    return painted
