"""A slice with what was predicted for it, and tables of scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..data.padding import crop_padding
from ..data.volume import Volume
from ..errors import InputError
from ..scoring.metrics import dice_from_counts
from ..submission.rle import rle_decode

# Of a kidney in the test set that Kaggle shows; the one that it scores has hundreds.
_PLACEHOLDER_SLICES = 3
_NO_MASK = np.zeros((0, 0), np.bool_)


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


def segmented_slice(
    volume: Volume, z: int, rles: Mapping[str, str | np.ndarray], like: SegmentedSlice | None = None
) -> SegmentedSlice:
    """Puts one slice of a submission beside its image and, where there is one, its label.

    Args:
        volume: the kidney.
        z: the slice's index in it.
        rles: run-length encodings by slice id, or masks (H, W) bool.
        like: the same slice with another prediction, whose image and label are taken.
    """
    slice_id = volume.slice_ids[z]
    if like is None:
        like = SegmentedSlice(slice_id, volume[z], _NO_MASK, volume.label(z) if volume.is_labelled(z) else None)
    mask, shape = rles[slice_id], like.image.shape
    if isinstance(mask, str):
        mask = rle_decode(mask, *shape)
    if mask.shape != shape:
        raise InputError(f"the mask must be of the image's size, {shape[0]}x{shape[1]}, found {mask.shape}")
    return replace(like, mask_pred=mask)


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


def to_display(image: np.ndarray) -> np.ndarray:
    """(H, W) grey values → (H, W, 3) float in 0..1, stretched between the 0.5 and 99.8 percentiles without padding."""
    low, high = np.percentile(crop_padding(image)[::2, ::2], (0.5, 99.8))
    grey = ((image - low) / max(high - low, 1)).clip(0, 1)
    return np.repeat(grey[..., None], 3, axis=2)
