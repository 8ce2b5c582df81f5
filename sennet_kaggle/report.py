"""Pictures and tables of results."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .metrics import dice_counts, dice_from_counts
from .rle import rle_decode
from .volume import Volume

_HIT, _MISS, _FALSE_ALARM, _PREDICTION = (0.25, 0.85, 0.35), (1.0, 0.25, 0.25), (1.0, 0.75, 0.1), (1.0, 0.3, 0.25)
_COLUMNS = 4
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


def score_table(slice_ids: Sequence[str], counts: Sequence[tuple[int, int, int]]) -> pd.DataFrame:
    """Dice per slice, then their mean and the pooled Dice.

    Args:
        slice_ids: S names.
        counts: S results of `dice_counts`.

    Returns:
        S + 2 rows, columns slice, dice, vessel_px, predicted_px, common_px; the pixels of the row "mean"
        are missing.
    """
    rows = [(slice_id, dice_from_counts(*row), *row) for slice_id, row in zip(slice_ids, counts, strict=True)]
    pooled = tuple(int(total) for total in np.sum(counts, axis=0))
    rows.append(("mean", float(np.mean([row[1] for row in rows])), None, None, None))
    rows.append(("pooled", dice_from_counts(*pooled), *pooled))
    table = pd.DataFrame(rows, columns=["slice", "dice", "vessel_px", "predicted_px", "common_px"])
    return table.astype({"vessel_px": "Int64", "predicted_px": "Int64", "common_px": "Int64"})


def format_table(table: pd.DataFrame) -> str:
    """A table as aligned text."""
    filled = table.astype(object).where(table.notna(), "")
    return filled.to_string(index=False, float_format="{:.4f}".format)


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


def figure_to_png(figure: Figure) -> bytes:
    """Renders a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def to_display(image: np.ndarray) -> np.ndarray:
    """(H, W) grey values → (H, W, 3) float in 0..1, stretched between the 0.5 and 99.8 percentiles."""
    low, high = np.percentile(image[::2, ::2], (0.5, 99.8))
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
        dice = dice_from_counts(*dice_counts(mask_gt, mask_pred))
        errors = [(mask_gt & mask_pred, _HIT), (mask_gt & ~mask_pred, _MISS), (mask_pred & ~mask_gt, _FALSE_ALARM)]
        panels += [
            (f"label, {mask_gt.sum():,} px", _paint(display, [(mask_gt, _HIT)])),
            (f"Dice {dice:.3f}: hit green, missed red, false yellow", _paint(display, errors)),
        ]
    return panels


def _paint(display: np.ndarray, layers: Sequence[tuple[np.ndarray, tuple[float, float, float]]]) -> np.ndarray:
    painted = display.copy()
    for mask, colour in layers:
        painted[mask] = colour
    return painted
