"""A decoded volume → training windows across z, y or x, or in a plane turned at random, with what is known of them.

A point of the volume is (z, y, x), with whole numbers at the voxels' centres; pixel (v, u) of a window lies at
`origin + v * down + u * right`.
"""

from typing import NamedTuple

import cv2
import numpy as np

from .augment import ON_VESSEL, cut_window, place_window
from .bricks import UNKNOWN, Block
from .turned import Lines, sample

TURNED = 0.5
"""Part of the windows in planes that are turned, where the settings allow it."""


class Plane(NamedTuple):
    """Where a window lies in a block."""

    axis: int
    """0, 1 or 2: across z, y or x."""
    at: int
    """Its coordinate on that axis."""
    placement: np.ndarray
    """(2, 3) float64: window pixel (column, row) → column and row of the plane, as of `draw_window`."""
    turn: np.ndarray | None = None
    """(3, 3) float64 rotation about the window's middle; None leaves the plane across its axis."""


def draw_plane(
    block: Block,
    z: int,
    roi_size: int,
    zoom_range: tuple[float, float] | None,
    planes: str,
    oblique: float,
    rng: np.random.Generator,
) -> Plane:
    """Chooses a window that shows a point of a slice: half of the time one on a vessel, else any.

    Args:
        block: the slices.
        z: which of them.
        roi_size: side of the window in pixels.
        zoom_range: as in `draw_window`.
        planes: the axes that the plane may cut, such as "zyx"; a block that is not dense has z only.
        oblique: degrees; half of the planes of a dense block are turned about a random line of theirs by up to so much.
        rng: the source of chance.
    """
    shape, is_dense = block.shape, block.is_dense
    anchors = block.bricks.anchors(block.rows[z])
    if len(anchors) and rng.random() < ON_VESSEL:
        y, x = divmod(int(anchors[rng.integers(len(anchors))]), shape[2])
        shift = rng.uniform(-0.25, 0.25, 2) * roi_size
    else:
        y, x = (int(rng.integers(length)) for length in shape[1:])
        shift = np.zeros(2)
    axis = "zyx".index(planes[rng.integers(len(planes))]) if is_dense else 0
    point = np.array((z, y, x))
    across, along = point[axis], np.delete(point, axis) + shift
    (row, column), (height, width) = along, np.delete(shape, axis).tolist()
    placement = place_window(row, column, height, width, roi_size, zoom_range, rng)
    turn = None
    if oblique and is_dense and rng.random() < TURNED:
        turn = _turn(axis, rng.uniform(0, np.pi), np.radians(rng.uniform(-oblique, oblique)))
    return Plane(axis, int(across), placement, turn)


def cut_plane(block: Block, plane: Plane, roi_size: int, offsets: tuple[int, ...]) -> np.ndarray:
    """Takes a window and those beside it, along the plane's normal, out of the grey values.

    Args:
        block: the slices; beyond them and their sides the border is repeated.
        plane: of `draw_plane`.
        roi_size: side of the window.
        offsets: how many voxels along the normal each channel lies from the plane.

    Returns:
        (C, roi_size, roi_size), of the volume's dtype, bilinear; trilinear and float32 where the plane is turned.
    """
    if plane.turn is not None:
        return np.stack([sample(block, lines)[0] for lines in lines_of(plane, roi_size, offsets)])
    ats = [min(max(plane.at + offset, 0), block.shape[plane.axis] - 1) for offset in offsets]
    windows = {at: cut_window(*_patch(block, plane, at, roi_size), roi_size) for at in {*ats}}
    return np.stack([windows[at] for at in ats])


def cut_label(block: Block, plane: Plane, roi_size: int, offsets: tuple[int, ...]) -> np.ndarray:
    """Takes the labels of the same windows.

    Returns:
        (K, roi_size, roi_size) uint8, of the nearest voxel: 0 background, 1 vessel, 255 unknown or beyond the block.
    """
    if plane.turn is not None:
        return np.stack([sample(block, lines)[1] for lines in lines_of(plane, roi_size, offsets)])
    windows: list[np.ndarray] = []
    for offset in offsets:
        at = plane.at + offset
        if not 0 <= at < block.shape[plane.axis] or (plane.axis == 0 and not block.known[at]):
            windows.append(np.full((roi_size, roi_size), UNKNOWN, np.uint8))
            continue
        patch, placement = _patch(block, plane, at, roi_size, of_label=True)
        windows.append(
            cv2.warpAffine(
                patch,
                placement,
                (roi_size, roi_size),
                flags=cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=UNKNOWN,
            )
        )
    return np.stack(windows)


def cut_turned(
    block: Block, plane: Plane, roi_size: int, offsets: tuple[int, ...], label_offsets: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """As `cut_plane` and `cut_label` of a turned plane, in about half of the time of both."""
    places = tuple(dict.fromkeys((*offsets, *label_offsets)))
    both = {each: sample(block, lines) for each, lines in zip(places, lines_of(plane, roi_size, places), strict=True)}
    return np.stack([both[each][0] for each in offsets]), np.stack([both[each][1] for each in label_offsets])


def _patch(block: Block, plane: Plane, at: int, roi_size: int, of_label: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The part of a plane that a window may show, and the window's placement in it."""
    axis, sizes = plane.axis, np.delete(block.shape, plane.axis)
    corners = plane.placement[:, 2:] + plane.placement[:, :2] @ np.array([[0, 0, 1, 1], [0, 1, 0, 1]]) * (roi_size - 1)
    low, high = np.floor(corners.min(1)[::-1]) - 1, np.ceil(corners.max(1)[::-1]) + 2  # row, column
    # A window beyond the border still needs the border, which is repeated.
    low, high = low.clip(0, sizes - 1).astype(int), high.clip(1, sizes).astype(int)
    rows, columns = (range(a, max(b, a + 1)) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    first = block.rows.start
    placement = plane.placement.copy()
    placement[:, 2] -= low[::-1]
    box = (rows, columns)
    if axis == 0:
        at += first
    else:
        box = (range(rows.start + first, rows.stop + first), columns)
    patch = block.bricks.plane(block.bricks.label if of_label else block.bricks.grey, axis, at, box)
    if of_label and axis != 0 and not block.known[rows.start : rows.stop].all():
        patch[~block.known[rows.start : rows.stop]] = UNKNOWN
    return patch, placement


def _turn(axis: int, direction: float, angle: float) -> np.ndarray:
    """The rotation by an angle about a line in the plane across an axis (Rodrigues' formula), (3, 3)."""
    line = np.insert((np.cos(direction), np.sin(direction)), axis, 0.0)
    cross = np.cross(np.eye(3), line)
    return np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def lines_of(plane: Plane, roi_size: int, offsets: tuple[int, ...]) -> list[Lines]:
    """Where the pixels of a window lie, for each offset along the plane's normal."""
    turn = np.eye(3) if plane.turn is None else plane.turn
    right, down, origin = (np.insert(plane.placement[::-1, i], plane.axis, 0.0) for i in range(3))
    origin[plane.axis] = plane.at
    middle = origin + (right + down) * (roi_size - 1) / 2
    right, down, normal = turn @ right, turn @ down, turn[:, plane.axis]
    pixels = np.arange(roi_size) - (roi_size - 1) / 2
    across = (pixels[:, None] * right).astype(np.float32)
    starts = pixels[:, None] * down + middle
    return [Lines((starts + offset * normal).astype(np.float32), across) for offset in offsets]
