"""Slices decoded once → a volume on disk in bricks of 8 x 8 x 8 voxels, out of which planes of any direction are cut.

In a volume that lies slice by slice each voxel of a plane along x is on a memory page of its own. In bricks a plane
touches about as many pages whatever its direction.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.format import open_memmap

from ..errors import InputError
from ..files import format_size, open_reserved, replacing
from ..locking import take_turns
from ..progress import progress_bar
from .cache import LOCK, file_digests, remove_leftovers
from .padding import fill_padding, is_blank
from .volume import Volume

_FORMAT = 1  # part of the key: raise it whenever the files would come out otherwise than before
EDGE = 8
UNKNOWN = 255
"""Label of a voxel of which nothing is known."""
MOST_ANCHORS = 1024
LEAST_DEPTH = 32
"""So many labelled slices must follow one another for planes across them."""
_THREADS = 4
_BLANK = -1


class Wanted(NamedTuple):
    """The slices of a kidney that are to be decoded."""

    volume: Volume
    zs: tuple[int, ...]
    """Ascending, at least one."""


@dataclass(frozen=True)
class BrickVolume:
    """R slices of one size on disk; pickled, it is its paths and shape, so worker processes map the same files."""

    paths: tuple[Path, Path, Path]
    shape: tuple[int, int, int]
    """R, H, W."""
    dtype: str

    def __reduce__(self):
        return BrickVolume, (self.paths, self.shape, self.dtype)

    @cached_property
    def grey(self) -> np.ndarray:
        """(r, h, w, 8, 8, 8) uint8 or uint16, read-only: grey values, their padding filled."""
        return open_memmap(self.paths[0], mode="r")

    @cached_property
    def label(self) -> np.ndarray:
        """(r, h, w, 8, 8, 8) uint8, read-only: 0 background, 1 vessel, 255 unknown."""
        return open_memmap(self.paths[1], mode="r")

    @cached_property
    def _anchors(self) -> np.ndarray:
        return open_memmap(self.paths[2], mode="r")

    @property
    def arrays(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and dtype that the three files must have."""
        bricks = (*brick_counts(self.shape), EDGE, EDGE, EDGE)
        return (bricks, self.dtype), (bricks, "uint8"), ((self.shape[0], 1 + MOST_ANCHORS), "int32")

    @property
    def size(self) -> int:
        """Bytes on disk, less a few for the headers."""
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.arrays)

    def anchors(self, row: int) -> np.ndarray:
        """Vessel pixels of a slice, as indices into it in C order: (N,) int32, all, or 1024 spread evenly over them."""
        count, positions = self._anchors[row, 0], self._anchors[row, 1:]
        return positions[: max(0, count)]

    def blank(self) -> np.ndarray:
        """Which slices are of one grey value: (R,) bool."""
        return self._anchors[:, 0] == _BLANK

    def plane(self, bricks: np.ndarray, axis: int, at: int, box: tuple[range, range]) -> np.ndarray:
        """Reads a rectangle of the plane across an axis.

        Args:
            bricks: `grey` or `label`.
            axis: 0, 1 or 2 for z, y or x.
            at: the plane's coordinate on it.
            box: rows and columns of the plane, inside the volume, along the other two axes in their order.

        Returns:
            (rows, columns), of the bricks' dtype.
        """
        others = [other for other in range(3) if other != axis]
        place: list[int | slice] = [slice(None)] * 6
        place[axis], place[3 + axis] = divmod(at, EDGE)
        for other, part in zip(others, box, strict=True):
            place[other] = slice(part.start // EDGE, -(-part.stop // EDGE))
        faces = bricks[tuple(place)]  # (r, c, 8, 8)
        faces = faces.transpose(0, 2, 1, 3).reshape(faces.shape[0] * EDGE, -1)
        (rows, columns) = (slice(part.start % EDGE, part.start % EDGE + len(part)) for part in box)
        return faces[rows, columns]


class Block(NamedTuple):
    """Neighbouring slices of a volume."""

    bricks: BrickVolume
    rows: range
    """Of the volume; the block's own coordinate z counts from the first."""
    known: np.ndarray
    """(len(rows),) bool: whose label may be learned from."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.rows), *self.bricks.shape[1:]

    @property
    def is_dense(self) -> bool:
        """Whether planes across its slices show anything."""
        return is_dense(self.known)


def is_dense(known: np.ndarray) -> bool:
    """Whether of neighbouring slices enough have a label for planes across them."""
    return len(known) >= LEAST_DEPTH and 2 * np.count_nonzero(known) >= len(known)


def brick_counts(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """How many bricks there are along each axis."""
    return tuple(-(-length // EDGE) for length in shape)


def brick_places(shape: tuple[int, int, int]) -> list[np.ndarray]:
    """For each axis, what a coordinate on it adds to a voxel's index in the flattened bricks, intp."""
    _, height, width = brick_counts(shape)
    found = []
    for axis, step in enumerate((height * width, width, 1)):
        brick, inside = np.divmod(np.arange(shape[axis]), EDGE)
        found.append(brick * (step * EDGE**3) + inside * EDGE ** (2 - axis))
    return found


def open_bricks(cache_dir: Path | str, wanted: Iterable[Wanted]) -> list[BrickVolume]:
    """Opens the decoded slices of kidneys, and decodes them first where that has not been done.

    Named by content, like the caches of `open_cache`: files, slice ids, format. Of several processes one decodes and
    the others wait; one that is killed leaves nothing that is taken for a volume.

    Args:
        cache_dir: made if missing; holds 3 bytes per voxel of 16 bits.
        wanted: what of which kidney.

    Returns:
        As many volumes.

    Raises:
        InputError: a slice or label is missing or damaged, those of a kidney differ in size or dtype, the folder
            cannot be made, or the disk has not the room for all of them.
    """
    wanted = list(wanted)
    cache_dir = Path(cache_dir)
    volumes = [_plan(cache_dir, each) for each in wanted]
    if all(map(_is_whole, volumes)):
        return volumes
    with take_turns(cache_dir / LOCK):
        remove_leftovers(cache_dir)
        missing = [(each, bricks) for each, bricks in zip(wanted, volumes, strict=True) if not _is_whole(bricks)]
        _check_room(cache_dir, missing)
        for each, bricks in missing:
            _build(bricks, each)
    return volumes


def _plan(cache_dir: Path, wanted: Wanted) -> BrickVolume:
    """The volume that will be there."""
    volume, zs = wanted
    sizes: dict[tuple[int, int], str] = {}
    for z in zs:
        sizes.setdefault(volume.slice_size(z), volume.slice_ids[z])
    if len(sizes) > 1:
        (a, b), (first, second) = list(sizes)[:2], list(sizes.values())[:2]
        raise InputError(
            f"planes must be cut out of slices of one size, found {a[0]}x{a[1]} ({first}) and {b[0]}x{b[1]} "
            f"({second}): choose planes z"
        )
    recipe = json.dumps([_FORMAT, EDGE, [volume.slice_ids[z] for z in zs]])
    key = hashlib.blake2b(recipe.encode(), digest_size=8)
    labelled = [z for z in zs if volume.is_labelled(z)]
    for digest in file_digests([volume.image_paths[z] for z in zs]) + volume.label_digests(labelled):
        key.update(digest)
    stem = f"{volume.name}-{key.hexdigest()}"
    grey, label, anchors = (cache_dir / f"{stem}.{kind}.npy" for kind in ("grey", "label", "anchors"))
    return BrickVolume((grey, label, anchors), (len(zs), *next(iter(sizes))), volume[zs[0]].dtype.name)


def _is_whole(bricks: BrickVolume) -> bool:
    """Whether the files are there with the shape, dtype and length they must have."""
    try:
        found = tuple((array.shape, array.dtype.name) for array in (bricks.grey, bricks.label, bricks._anchors))
    except (OSError, ValueError):  # missing; cut short or not an array
        return False
    return found == bricks.arrays


def _check_room(cache_dir: Path, missing: Sequence[tuple[Wanted, BrickVolume]]) -> None:
    needed, free = sum(bricks.size for _, bricks in missing), shutil.disk_usage(cache_dir).free
    if needed > free:
        names = ", ".join(wanted.volume.name for wanted, _ in missing)
        raise InputError(
            f"the decoded slices of {names} need {format_size(needed)} and {cache_dir} has {format_size(free)} free: "
            f"delete old caches there, choose another cache folder, or choose planes z and oblique 0"
        )


def _build(bricks: BrickVolume, wanted: Wanted) -> None:
    with replacing(bricks.paths[0]) as grey, replacing(bricks.paths[1]) as label, replacing(bricks.paths[2]) as anchors:
        arrays = [
            open_reserved(path, np.dtype(dtype), shape)
            for path, (shape, dtype) in zip((grey, label, anchors), bricks.arrays, strict=True)
        ]
        with ThreadPoolExecutor(_THREADS) as pool:  # reading, decoding and filling release the interpreter's lock
            blocks = range(0, len(wanted.zs), EDGE)
            for start in progress_bar(f"decoding {wanted.volume.name}", len(blocks), blocks, unit="block"):
                rows = range(start, min(start + EDGE, len(wanted.zs)))
                slices = pool.map(lambda row: _decode(wanted.volume, wanted.zs[row], bricks.dtype), rows)
                _store(arrays, bricks.shape, rows, list(slices))
        for array in arrays:
            array.flush()


def _decode(volume: Volume, z: int, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One slice: grey values (H, W), label (H, W) uint8, and its row of anchors."""
    slice_ = volume[z]
    if slice_.dtype.name != dtype:
        raise InputError(f"{volume.slice_ids[z]} is {slice_.dtype} but others of its kidney are {dtype}: use one kind")
    anchors = np.zeros(1 + MOST_ANCHORS, np.int32)
    if not volume.is_labelled(z):
        label = np.full(slice_.shape, UNKNOWN, np.uint8)
    else:
        label = volume.label(z).astype(np.uint8)
        found = np.flatnonzero(label)
        found = found[np.linspace(0, len(found) - 1, min(len(found), MOST_ANCHORS)).astype(int)]
        anchors[0], anchors[1 : 1 + len(found)] = len(found), found
    if is_blank(slice_):
        anchors[0] = _BLANK
    return fill_padding(slice_), label, anchors


def _store(arrays: Sequence[np.ndarray], shape: tuple[int, int, int], rows: range, slices: list) -> None:
    """Writes one layer of bricks; what of it lies beyond the volume is unknown."""
    grey, label, anchors = arrays
    _, height, width = brick_counts(shape)
    for row, (*_, found) in zip(rows, slices, strict=True):
        anchors[row] = found
    for array, which, beyond in ((grey, 0, 0), (label, 1, UNKNOWN)):
        layer = np.full((EDGE, height * EDGE, width * EDGE), beyond, array.dtype)
        for inside, slice_ in enumerate(slices):
            layer[inside, : shape[1], : shape[2]] = slice_[which]
        array[rows.start // EDGE] = layer.reshape(EDGE, height, EDGE, width, EDGE).transpose(1, 3, 0, 2, 4)


def runs_of(bricks: BrickVolume, numbers: Sequence[int]) -> Iterator[range]:
    """The rows that follow one another: neighbouring slices, without a blank slice beside one that is not.

    Args:
        bricks: the volume.
        numbers: of its rows, each greater by 1 than the one before where they are neighbours.
    """
    is_new = np.diff(numbers) != 1
    is_new |= np.diff(bricks.blank()) != 0
    edges = [0, *(np.flatnonzero(is_new) + 1).tolist(), len(numbers)]
    return (range(a, b) for a, b in zip(edges, edges[1:], strict=False))
