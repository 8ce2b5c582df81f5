"""Slice → where the organ is, roughly: what pictures are cropped to and what a shell is drawn around."""

from collections.abc import Sequence

import cv2
import numpy as np

from .padding import find_padding

_SIDE = 160  # pixels of the longer side that is looked at
_BLUR = 1.2
_LEVELS = (0.0, 0.25, 0.5)  # from Otsu's threshold towards the brightest
_LEAST, _MOST = 0.01, 0.9  # of the slice
_MOST_AT_BORDER = 0.2  # of the border's length
_LEAST_SOLID = 0.6  # of its convex hull; a kidney with its hilum has 0.8, a bright patch of medium less
_MARGIN = 0.04  # of the longer side


def find_organ(slice_: np.ndarray) -> np.ndarray | None:
    """Finds the organ: the largest bright thing that does not lie along the border.

    Otsu's threshold (1979) on a small, blurred copy; where what is above it reaches along the border, as a bright
    medium does, a higher one. Holes are filled, so vessels and cavities count as organ.

    Args:
        slice_: (H, W) uint8 or uint16.

    Returns:
        (h, w) bool of the small copy, whose longer side is at most 160 pixels; None where nothing stands out.
    """
    height, width = slice_.shape
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(slice_, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    scanned = cv2.resize((~find_padding(slice_)).view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    if not scanned.any() or np.ptp(small[scanned]) == 0:
        return None
    small[~scanned] = small[scanned].min()
    small = cv2.GaussianBlur(small, (0, 0), _BLUR).astype(np.float32)
    low, high = small.min(), np.percentile(small, 99.5)
    grey = ((small - low) * (255 / max(high - low, 1))).clip(0, 255).astype(np.uint8)
    otsu, _ = cv2.threshold(grey, 0, 1, cv2.THRESH_OTSU)
    for step in _LEVELS:
        organ = _largest(grey > otsu + step * (255 - otsu))
        border = np.concatenate([organ[0], organ[-1], organ[:, 0], organ[:, -1]])
        if _LEAST < organ.mean() < _MOST and border.mean() < _MOST_AT_BORDER and _solidity(organ) > _LEAST_SOLID:
            return organ
    return None


def organ_box(slice_: np.ndarray, masks: Sequence[np.ndarray] = ()) -> tuple[int, int, int, int]:
    """The rectangle to crop a slice to: the organ with some margin, and all that masks mark.

    Args:
        slice_: (H, W) uint8 or uint16.
        masks: (H, W) bool each.

    Returns:
        Top, bottom, left and right, as for slicing; the whole slice where no organ stands out.
    """
    height, width = slice_.shape
    organ = find_organ(slice_)
    if organ is None:
        return 0, height, 0, width
    boxes = [_box(organ, height / organ.shape[0], width / organ.shape[1])]
    boxes += [_box(mask, 1, 1) for mask in masks if mask.any()]
    tops, bottoms, lefts, rights = zip(*boxes, strict=True)
    margin = round(_MARGIN * max(height, width))
    return (
        max(min(tops) - margin, 0),
        min(max(bottoms) + margin, height),
        max(min(lefts) - margin, 0),
        min(max(rights) + margin, width),
    )


def _box(mask: np.ndarray, down: float, across: float) -> tuple[int, int, int, int]:
    """Of what is marked, enlarged by factors."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return (
        int(rows[0] * down),
        int(np.ceil((rows[-1] + 1) * down)),
        int(columns[0] * across),
        int(np.ceil((columns[-1] + 1) * across)),
    )


def _solidity(mask: np.ndarray) -> float:
    """Part of its convex hull that is marked."""
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(np.concatenate(contours))
    return float(mask.sum() / cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), hull, 1).sum())


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest part that hangs together, without holes."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    if count < 2:
        return np.zeros_like(mask)
    largest = (labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).view(np.uint8)
    contours, _ = cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(largest), contours, -1, 1, cv2.FILLED).view(np.bool_)
