"""Chance → training windows of vessels that look like no scanner's in particular: random greys, walls, texture, faults.

Arteries up to nine tenths of a window wide, each a lumen (the label) inside a wall, lie among what is not labelled:
vessels without a wall, the organ's border with its capsule, rings and streaks of computed tomography. vesselFM
(Wittmann et al., CVPR 2025) draws looks at random to carry over to other scanners. Coordinates are (z, y, x) in pixels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .phantom import distance2_to_segment

_SMALL, _WIDE = (0.8, 12.0), (0.06, 0.45)  # radii of lumens: in pixels; as parts of the window
_WITH_WIDE = 0.5  # of the windows, as the next four
_WITH_BORDER, _WITH_CAPSULE, _WITH_RINGS, _WITH_STREAKS = 0.6, 0.5, 0.2, 0.2
_MOST_SMALL, _MOST_VEINS = 14, 5
_DARK_LUMENS, _BRIGHT_WALLS = 0.8, 0.85
_PROFILE = 512  # values of a ring's or streak's profile
_MOVED = 0.08  # part of the window: no pixel is moved farther by `_warp` (see there)


class Tubes(NamedTuple):
    """Straight vessels with round ends."""

    start: np.ndarray
    """(n, 3) float32."""
    end: np.ndarray
    radius: np.ndarray
    """(n,) float32."""


class Look(NamedTuple):
    """Grey levels, where 0 and 1 are a scan's darkest and brightest, and standard deviations in their unit."""

    tissue: float
    beyond: float
    """Outside the organ."""
    lumen: float
    vein: float
    wall: float
    texture: float
    """Of tissue and surroundings, over `grain` pixels."""
    filling: float
    """Of what is in wide lumens, over as many."""
    shading: float
    """Over half the window."""
    grain: int
    noise: float
    blur: float
    """Pixels."""


def draw_synthetic_window(side: int, offsets: Sequence[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a window, or a stack of neighbouring ones, with its label.

    Args:
        side: of the window, in pixels.
        offsets: how far along z each plane lies from the middle one, in pixels.
        rng: the source of chance.

    Returns:
        Image (C, side, side) float32, about 0..1 as of `slice_to_image`, and mask (C, side, side) bool.
    """
    look = draw_look(rng)
    arteries, walls = _draw_arteries(side, rng)
    veins = _draw_tubes(side, int(rng.integers(_MOST_VEINS + 1)), (_SMALL[0] / side, 0.2), rng)
    y, x = (_warp(side, axis, rng) for axis in range(2))
    base = _draw_organ(look, y, x, side, rng)
    filling = look.lumen + look.filling * _noise(side, look.grain, rng)
    shading = look.shading * _noise(side, side // 2, rng) + _draw_faults(side, rng)
    images, masks = [], []
    for offset in offsets:
        image = base.copy()
        image[_fill(veins, veins.radius, offset, y, x)] = look.vein
        mask = _fill(arteries, arteries.radius, offset, y, x)
        image[_fill(arteries, arteries.radius + walls, offset, y, x)] = look.wall
        np.copyto(image, filling, where=mask)
        image += shading
        image += look.noise * rng.standard_normal(image.shape, np.float32)
        images.append(cv2.GaussianBlur(image, (0, 0), look.blur))
        masks.append(mask)
    return np.stack(images), np.stack(masks)


def draw_look(rng: np.random.Generator) -> Look:
    """Chooses the levels: a lumen darker than the tissue, or brighter, and a wall that differs from both."""
    tissue = rng.uniform(0.3, 0.75)
    lumen = tissue + rng.uniform(0.12, 0.5) * (-1 if rng.random() < _DARK_LUMENS else 1)
    low, high = sorted((tissue, lumen))
    contrast = rng.uniform(0.12, 0.5)
    wall = high + contrast if rng.random() < _BRIGHT_WALLS else low - contrast
    blur = rng.uniform(0.4, 1.8)
    return Look(
        tissue=tissue,
        beyond=rng.uniform(-0.1, 1.0),
        lumen=lumen,
        vein=lumen + rng.normal(0, 0.05),
        wall=wall,
        texture=rng.uniform(0, 0.1),
        filling=rng.uniform(0, 0.1),
        shading=rng.uniform(0, 0.1),
        grain=int(rng.integers(4, 40)),
        noise=rng.uniform(0.02, 0.12) * 2 * math.sqrt(math.pi) * blur,  # so much is left after the blur
        blur=blur,
    )


def _draw_arteries(side: int, rng: np.random.Generator) -> tuple[Tubes, np.ndarray]:
    """Small vessels, and in half of the windows one or two wide ones, with how thick each one's wall is, (n,)."""
    low, high = (each / side for each in _SMALL)
    small = _draw_tubes(side, int(rng.integers(2, _MOST_SMALL + 1)), (low, high), rng)
    wide = _draw_tubes(side, int(rng.integers(1, 3)) if rng.random() < _WITH_WIDE else 0, _WIDE, rng)
    both = Tubes(*(np.concatenate(parts) for parts in zip(small, wide, strict=True)))
    return both, (1 + both.radius ** rng.uniform(0.3, 0.7) * rng.uniform(0.3, 1.2)).astype(np.float32)


def _draw_tubes(side: int, count: int, radii: tuple[float, float], rng: np.random.Generator) -> Tubes:
    """Vessels of any direction whose middle lies in the window, with radii between two parts of its side."""
    radius = side * np.exp(rng.uniform(np.log(radii[0]), np.log(radii[1]), count))
    middle = rng.uniform(0, side, (count, 3)) * (0, 1, 1)
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    half = direction * (radius * rng.uniform(2, 8, count))[:, None]
    return Tubes(*(each.astype(np.float32) for each in (middle - half, middle + half, radius)))


def _warp(side: int, axis: int, rng: np.random.Generator) -> np.ndarray:
    """The coordinate of each pixel, moved a little, so that vessels bend and are not round: (side, side) float32."""
    spacing = rng.uniform(0.07, 0.3) * side
    moved = _noise(side, int(spacing), rng) * np.float32(rng.uniform(0, 0.12) * spacing)
    np.clip(moved, -_MOVED * side, _MOVED * side, out=moved)
    line = np.arange(side, dtype=np.float32)
    moved += line[:, None] if axis == 0 else line
    return moved


def _fill(tubes: Tubes, radii: np.ndarray, z: float, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Where a plane cuts tubes, (side, side) bool."""
    inside = np.zeros(y.shape, np.bool_)
    for start, end, radius in zip(tubes.start, tubes.end, radii, strict=True):
        margin = radius + _MOVED * y.shape[0]
        low = np.floor(np.minimum(start, end) - margin).astype(int)
        high = np.ceil(np.maximum(start, end) + margin).astype(int) + 1
        if low[0] <= z < high[0]:
            box = tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(low[1:].tolist(), high[1:].tolist(), strict=True))
            inside[box] |= distance2_to_segment(start, end, z, y[box], x[box]) < radius**2
    return inside


def _draw_organ(look: Look, y: np.ndarray, x: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Tissue, in some windows with the organ's border and what is beyond it, (side, side) float32."""
    base = look.texture * _noise(side, look.grain, rng) + np.float32(look.tissue)
    if rng.random() < _WITH_BORDER:
        angle, at = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5) * side
        depth = (y - side / 2) * np.float32(np.sin(angle)) + (x - side / 2) * np.float32(np.cos(angle)) + at
        if rng.random() < _WITH_CAPSULE:
            base[abs(depth) < rng.uniform(1, 4)] = look.wall
        base[depth < 0] += look.beyond - look.tissue
    return base


def _draw_faults(side: int, rng: np.random.Generator) -> np.ndarray | float:
    """Rings about the scanner's axis and streaks from a point, (side, side) float32; 0 where there are none."""
    faults: np.ndarray | float = 0.0
    line = np.arange(side, dtype=np.float32)
    for part, is_ring in ((_WITH_RINGS, True), (_WITH_STREAKS, False)):
        if rng.random() >= part:
            continue
        profile = rng.normal(0, rng.uniform(0.02, 0.08), _PROFILE).astype(np.float32)
        y, x = (line - np.float32(rng.uniform(-1, 2) * side) for _ in range(2))
        y, x = np.broadcast_arrays(y[:, None], x)
        distance, angle = cv2.cartToPolar(x, y)
        along = distance if is_ring else angle * side
        faults = faults + profile[(along / rng.uniform(1, 4)).astype(int) % _PROFILE]
    return faults


def _noise(side: int, spacing: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of about unit variance, a random value each `spacing` pixels (even), (side, side) float32."""
    step = max(1, min(spacing, side) // 2)
    count = side // (2 * step) + 2
    grid = rng.standard_normal((count, count), np.float32)
    fine = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    return cv2.resize(fine, None, fx=2, fy=2)[:side, :side]  # linear: a third of the time of cubic alone
