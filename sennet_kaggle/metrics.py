"""Scores of a predicted mask against the label."""

import numpy as np


def dice_coefficient(mask_gt: np.ndarray, mask_pred: np.ndarray) -> float:
    """Dice (Sørensen 1948): twice the common pixels over the sum of both masks' pixels.

    Args:
        mask_gt: label, bool, any shape.
        mask_pred: prediction, bool, the same shape.

    Returns:
        0 (disjoint) to 1 (equal); 1.0 when both are empty.

    Raises:
        ValueError: the shapes differ or a mask is not bool.
    """
    return dice_from_counts(*dice_counts(mask_gt, mask_pred))


def dice_counts(mask_gt: np.ndarray, mask_pred: np.ndarray) -> tuple[int, int, int]:
    """Pixels of the label, of the prediction, and of both: added up over slices they give the pooled Dice."""
    if mask_gt.shape != mask_pred.shape:
        raise ValueError(f"masks must have one shape, got {mask_gt.shape} and {mask_pred.shape}")
    if mask_gt.dtype != np.bool_ or mask_pred.dtype != np.bool_:
        raise ValueError(f"masks must be bool, got {mask_gt.dtype} and {mask_pred.dtype}")
    return np.count_nonzero(mask_gt), np.count_nonzero(mask_pred), np.count_nonzero(mask_gt & mask_pred)


def dice_from_counts(pixels_gt: int, pixels_pred: int, pixels_both: int) -> float:
    """Dice from the counts of `dice_counts`."""
    return 2 * pixels_both / (pixels_gt + pixels_pred) if pixels_gt + pixels_pred else 1.0
