"""A mask in memory → its skeleton: curves one voxel thin, with the mask's parts, loops and nothing else.

As Lee, Kashyap and Chu (1994) do, layers are taken off from the six sides in turn until nothing can go. A voxel goes
only if it is simple, that is, if the mask without it is connected in the same way (Bertrand and Malandain 1994), and if
it is not the end of a line. Voxels that go together belong to one of eight subfields, whose members are never
neighbours (Bertrand and Aktouf 1994), so that what is true of each is true of all. `skimage.morphology.skeletonize`
checks less: it deletes bars of even width altogether (scikit-image's issue 3757).
"""

import functools
from collections.abc import Iterable
from itertools import product

import numpy as np

_STEPS = [step for step in product((-1, 0, 1), repeat=3) if any(step)]  # the 26 neighbours, one bit each
_SIDES = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
_UNKNOWN, _KEPT, _SIMPLE, _END = range(4)


def thin(mask: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Thins a mask; voxels are connected through faces, edges and corners.

    Args:
        mask: (D, H, W) bool; what lies outside counts as background.
        corner: (3,) int, where the array lies in its volume: the subfields are those of the volume.

    Returns:
        (N, 3) int64, the skeleton's voxels z y x in the array, in lexical order.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    flat, strides = padded.reshape(-1), np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    around = np.array(_STEPS) @ strides
    vessel = np.flatnonzero(flat)
    subfield = _subfields(vessel, padded.shape, corner)
    while True:
        before = len(vessel)
        for side in _SIDES:
            border = np.flatnonzero(flat[vessel + side @ strides] == 0)
            kind = _kind_of(_neighbourhoods(flat, vessel[border], around))
            layer = border[kind == _SIMPLE]
            for each in range(8):
                candidates = vessel[layer[subfield[layer] == each]]
                # Its neighbours may have gone since; one that is a line's end only now may go as well.
                kind = _kind_of(_neighbourhoods(flat, candidates, around))
                flat[candidates[kind >= _SIMPLE]] = 0
            left = flat[vessel] > 0
            vessel, subfield = vessel[left], subfield[left]
        if len(vessel) == before:
            return np.stack(np.unravel_index(vessel, padded.shape), axis=1) - 1


def _subfields(vessel: np.ndarray, shape: tuple[int, ...], corner: np.ndarray) -> np.ndarray:
    """Which of the eight lattices of every other voxel each one is on: (N,) uint8."""
    z, y, x = ((np.stack(np.unravel_index(vessel, shape)) + corner[:, None]) % 2).astype(np.uint8)
    return z * 4 + y * 2 + x


def _neighbourhoods(flat: np.ndarray, at: np.ndarray, around: np.ndarray) -> np.ndarray:
    """The 26 neighbours of some voxels as bits: (N,) int32."""
    codes = np.zeros(len(at), np.int32)
    for bit, step in enumerate(around.tolist()):
        codes |= flat[at + step].astype(np.int32) << bit
    return codes


def _kind_of(codes: np.ndarray) -> np.ndarray:
    """What the voxels with these neighbours are, (N,) uint8: kept, simple or the end of a line."""
    known = _table()
    found = known[codes]
    if (found == _UNKNOWN).any():
        new = np.unique(codes[found == _UNKNOWN])
        known[new] = np.where(is_simple(new), np.where(new & (new - 1), _SIMPLE, _END), _KEPT)
        found = known[codes]
    return found


@functools.cache
def _table() -> np.ndarray:
    """The kind of a voxel with each of the 2^26 neighbourhoods, filled in as they occur."""
    return np.zeros(2**26, np.uint8)


def is_simple(codes: np.ndarray) -> np.ndarray:
    """Whether a voxel is simple: its neighbours in the mask are one piece, and the background at its faces is one.

    Args:
        codes: (N,) int32, the 26 neighbours as bits, z y x in lexical order, 1 in the mask.

    Returns:
        (N,) bool.
    """
    touching, sharing, faces, edges = _neighbours()
    one_piece = (codes != 0) & (_flooded(codes & -codes, codes, touching) == codes)
    background = ~codes & edges
    open_faces = background & faces
    reached = _flooded(open_faces & -open_faces, background, sharing) & faces
    return one_piece & (open_faces != 0) & (reached == open_faces)


@functools.cache
def _neighbours() -> tuple[list[int], list[int], int, int]:
    """For each neighbour which others touch it, and which share a face with it among those that the middle shares a
    face or an edge with; then those that the middle shares a face with, and a face or an edge. All as bits."""
    faces, edges = _bits(_SIDES), _bits(step for step in _STEPS if sum(map(abs, step)) < 3)
    touching = [_bits(b for b in _STEPS if _is_within(a, b, 3)) for a in _STEPS]
    return touching, [_bits(b for b in _STEPS if _is_within(a, b, 1)) & edges for a in _STEPS], faces, edges


def _flooded(seeds: np.ndarray, allowed: np.ndarray, neighbours: list[int]) -> np.ndarray:
    """What can be reached from some bits of each code through allowed ones: (N,) int32."""
    while True:
        grown = seeds.copy()
        for bit, mask in enumerate(neighbours):
            grown |= np.where(grown >> bit & 1, mask & allowed, 0)
        if np.array_equal(grown, seeds):
            return grown
        seeds = grown


def _bits(steps: Iterable[tuple[int, ...]]) -> int:
    return sum(1 << _STEPS.index(step) for step in steps)


def _is_within(a: tuple[int, ...], b: tuple[int, ...], most: int) -> bool:
    """Whether two neighbours touch each other through at most so many axes: 1 a face, 2 an edge, 3 a corner."""
    apart = [abs(x - y) for x, y in zip(a, b, strict=True)]
    return max(apart) == 1 and sum(apart) <= most
