"""Tubes with a known centre line and radius → a mask: what measurements of vessels are checked on."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

MARGIN = 4  # voxels of background around the tubes


def tube_mask(
    lines: Sequence[np.ndarray], radius: float, voxel_size: tuple[float, float, float] = (1, 1, 1)
) -> np.ndarray:
    """Draws round tubes: a voxel is set where its centre is nearer to a line than the radius, so that caps are round.

    Args:
        lines: each (K, 3), the points z y x of a centre line in any unit; where the array begins follows from them.
        radius: of all tubes, in the unit.
        voxel_size: along z, y, x, in the unit.

    Returns:
        (D, H, W) bool.
    """
    spacing = np.array(voxel_size, np.float64)
    points = np.concatenate(lines)
    # A multiple of a voxel: where the lines lie between the voxels' centres stays as it is.
    origin = np.floor((points.min(axis=0) - radius) / spacing) - MARGIN
    shape = np.ceil((points.max(axis=0) + radius) / spacing) + MARGIN - origin
    mask = np.zeros(shape.astype(int), np.bool_)
    for line in lines:
        for start, end in pairwise(line - origin * spacing):
            _draw(mask, start, end, radius, spacing)
    return mask


def ring(radius: float, tilt: np.ndarray, turns: float = 1.0) -> np.ndarray:
    """The points of a circle, or of a part of it, around the origin.

    Args:
        radius: of the circle.
        tilt: (3, 3) orthogonal; the circle lies in the plane of its first two rows.
        turns: 1 for a whole circle.
    """
    angle = np.linspace(0, 2 * math.pi * turns, 241)[:, None]
    return radius * (np.cos(angle) * tilt[0] + np.sin(angle) * tilt[1])


def _draw(mask: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, spacing: np.ndarray) -> None:
    """Sets the voxels near a straight piece from `start` to `end`, (3,) in the unit from the array's first voxel."""
    low = np.floor((np.minimum(start, end) - radius) / spacing).astype(int)
    high = np.ceil((np.maximum(start, end) + radius) / spacing).astype(int) + 1
    window = tuple(map(slice, low.tolist(), high.tolist()))
    grid = np.stack(np.meshgrid(*map(np.arange, low.tolist(), high.tolist()), indexing="ij"), axis=-1) * spacing - start
    along = np.clip(grid @ (end - start) / ((end - start) @ (end - start)), 0, 1)
    mask[window] |= ((grid - along[..., None] * (end - start)) ** 2).sum(axis=-1) < radius**2
