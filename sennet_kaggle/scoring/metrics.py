"""Scores of a predicted mask against the label: voxels, surfaces, vessels.

`surface_dice` is the competition's. Two empty masks score 1.0 in each, one empty mask 0.0 (in
`dice_without_largest`: what is left of them).
"""

from itertools import product
from math import dist, floor, inf, sqrt

import cv2
import numpy as np

from .surface_dice import (
    AREA_OF_CODE,
    SurfaceDice,
    check_masks,
    dice_from_corner_counts,
    sizes_of_codes,
    surface_dice,
    surface_dice_of_slices,
)

__all__ = [
    "SurfaceDice",
    "cl_dice",
    "dice_coefficient",
    "dice_counts",
    "dice_from_corner_counts",
    "dice_from_counts",
    "dice_without_largest",
    "largest_object",
    "surface_dice",
    "surface_dice_at_tolerance",
    "surface_dice_of_slices",
]


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
    check_masks(mask_gt, mask_pred)
    return np.count_nonzero(mask_gt), np.count_nonzero(mask_pred), np.count_nonzero(mask_gt & mask_pred)


def dice_from_counts(pixels_gt: int, pixels_pred: int, pixels_both: int) -> float:
    """Dice from the counts of `dice_counts`."""
    return 2 * pixels_both / (pixels_gt + pixels_pred) if pixels_gt + pixels_pred else 1.0


def dice_without_largest(mask_gt: np.ndarray, mask_pred: np.ndarray) -> float:
    """Dice without the label's largest object, which may hold most of the voxels (one open artery).

    The object's voxels are ignored in both masks; prediction beyond its outline still counts as false.

    Args:
        mask_gt: label, (H, W) or (D, H, W) bool.
        mask_pred: prediction, bool, the same shape.

    Returns:
        `dice_coefficient` of the other voxels: 1.0 when nothing is left in both masks, as for a label of
        one object and a prediction inside it; 0.0 when nothing is left in one.

    Raises:
        ValueError: the shapes differ, a mask is not bool, or neither 2D nor 3D.
    """
    _check_2d_or_3d(mask_gt, mask_pred)
    others = ~largest_object(mask_gt)
    return dice_coefficient(mask_gt & others, mask_pred & others)


def largest_object(mask: np.ndarray) -> np.ndarray:
    """The connected component with the most voxels, found with the whole mask in memory.

    Args:
        mask: (H, W) or (D, H, W) bool; voxels that touch at a corner are connected (8 or 26 neighbours).

    Returns:
        bool, the mask's shape; all False when the mask is empty, one of them when several are largest.
    """
    largest = np.zeros_like(mask)
    box = _bounding_box(mask)
    labels, sizes = _label_objects(mask[box])
    if sizes.size:
        largest[box] = labels == sizes.argmax() + 1
    return largest


def _label_objects(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the objects, 1 to N, in the mask's shape, and the N objects' sizes in voxels."""
    if mask.ndim == 2 and mask.size:
        # Several times as fast as SciPy, but for images only.
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        return labels, stats[1:, cv2.CC_STAT_AREA]
    from scipy import ndimage

    labels, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return labels, np.bincount(labels.ravel())[1:]


def surface_dice_at_tolerance(mask_gt: np.ndarray, mask_pred: np.ndarray, tolerance_voxels: float = 1.0) -> float:
    """Surface Dice (Nikolov et al. 2018) where surfaces up to a distance apart count as common.

    The rule of `surface_dice`, save that a corner of one surface counts when the other has a corner within
    the tolerance. On 2D masks surfaces are contours: a corner's neighbourhood is 2x2 and has the length that
    marching squares puts there. Whole masks in memory: some bytes for each voxel of the masks' bounding box,
    and time in proportion to the surface and to the tolerance's third (2D: second) power.

    Args:
        mask_gt: label, (D, H, W) or (H, W) bool; a slice as (1, H, W) is a slab with two faces.
        mask_pred: prediction, bool, the same shape.
        tolerance_voxels: the largest distance between corners that counts as common.

    Returns:
        0 to 1. 1.0 when both masks are empty, where the reference package `surface-distance` gives NaN;
        0.0 when one is.

    Raises:
        ValueError: the shapes differ, a mask is not bool or neither 2D nor 3D, a negative or infinite tolerance.
    """
    _check_2d_or_3d(mask_gt, mask_pred)
    if not 0 <= tolerance_voxels < inf:
        raise ValueError(f"tolerance_voxels must be finite and at least 0, got {tolerance_voxels}")
    box = _bounding_box(mask_gt | mask_pred)
    reach = floor(tolerance_voxels)
    # A corner needs a voxel on either side; and from a surface corner, `reach` steps must stay inside.
    codes_gt = _neighbourhood_codes(np.pad(mask_gt[box], reach + 1))
    codes_pred = _neighbourhood_codes(np.pad(mask_pred[box], reach + 1))
    size_of_code = AREA_OF_CODE if mask_gt.ndim == 3 else _LENGTH_OF_CODE
    all_gt, common_gt = _surface_sizes(codes_gt, codes_pred, size_of_code, tolerance_voxels)
    all_pred, common_pred = _surface_sizes(codes_pred, codes_gt, size_of_code, tolerance_voxels)
    return (common_gt + common_pred) / (all_gt + all_pred) if all_gt + all_pred else 1.0


def cl_dice(mask_gt: np.ndarray, mask_pred: np.ndarray) -> float:
    """clDice (Shit et al. 2021): are the vessels' centre lines found, thick and thin ones alike?

    The harmonic mean of the part of the label's skeleton inside the prediction and the part of the
    prediction's skeleton inside the label. Whole masks in memory.

    Args:
        mask_gt: label, (H, W) or (D, H, W) bool.
        mask_pred: prediction, bool, the same shape.

    Returns:
        0 to 1; 1.0 when both masks are empty, 0.0 when one is.

    Raises:
        ValueError: the shapes differ, a mask is not bool, or neither 2D nor 3D.
    """
    _check_2d_or_3d(mask_gt, mask_pred)
    if not mask_gt.any() or not mask_pred.any():
        return float(mask_gt.any() == mask_pred.any())
    skeleton_gt, skeleton_pred = _skeleton(mask_gt), _skeleton(mask_pred)
    sensitivity = np.count_nonzero(skeleton_gt & mask_pred) / np.count_nonzero(skeleton_gt)
    precision = np.count_nonzero(skeleton_pred & mask_gt) / np.count_nonzero(skeleton_pred)
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0


# Marching squares: a corner is cut off by half a diagonal, an edge by a line of its own length.
_LENGTH_OF_CODE = sizes_of_codes(2, {(0,): sqrt(2) / 2, (1, 1): 1.0})


def _check_2d_or_3d(mask_gt: np.ndarray, mask_pred: np.ndarray) -> None:
    check_masks(mask_gt, mask_pred)
    if mask_gt.ndim not in (2, 3):
        raise ValueError(f"masks must have shape (H, W) or (D, H, W), got {mask_gt.shape}")


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(hits[0], hits[-1] + 1) if hits.size else slice(0, 0))
    return tuple(box)


def _neighbourhood_codes(mask: np.ndarray) -> np.ndarray:
    """uint8, one smaller than the mask on each axis; the first voxel is the highest bit."""
    codes = np.zeros([size - 1 for size in mask.shape], np.uint8)
    for corner in product((0, 1), repeat=mask.ndim):
        codes <<= 1
        codes |= mask[tuple(slice(at, at + size) for at, size in zip(corner, codes.shape, strict=True))]
    return codes


def _surface_sizes(
    codes: np.ndarray, codes_other: np.ndarray, size_of_code: np.ndarray, tolerance_voxels: float
) -> tuple[float, float]:
    """Size of a surface, and of its corners within the tolerance of the other surface."""
    is_surface = size_of_code > 0
    corners = np.flatnonzero(is_surface[codes])
    is_other = is_surface[codes_other].ravel()
    strides = [int(np.prod(codes.shape[axis + 1 :])) for axis in range(codes.ndim)]
    reach = range(-floor(tolerance_voxels), floor(tolerance_voxels) + 1)
    is_common = np.zeros(corners.size, np.bool_)
    for step in product(reach, repeat=codes.ndim):
        if dist(step, (0,) * codes.ndim) <= tolerance_voxels:
            is_common |= is_other[corners + int(np.dot(step, strides))]
    codes = codes.ravel()[corners]
    counts = [np.bincount(which, minlength=size_of_code.size) for which in (codes, codes[is_common])]
    return tuple((counts @ size_of_code).tolist())


def _skeleton(mask: np.ndarray) -> np.ndarray:
    """Thins a mask to lines of one voxel; an object that the thinning erases altogether stays as it is.

    scikit-image's thinning in 3D does that to objects of even width, such as a bar of 2x2x6.
    """
    from skimage.morphology import skeletonize

    box = _bounding_box(mask)
    skeleton = np.zeros_like(mask)
    skeleton[box] = skeletonize(mask[box])
    labels, sizes = _label_objects(mask)
    has_skeleton = np.zeros(sizes.size + 1, np.bool_)
    has_skeleton[labels[skeleton]] = True
    return skeleton | (mask & ~has_skeleton[labels])
