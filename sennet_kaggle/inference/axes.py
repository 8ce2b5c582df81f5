"""The mean over the three axes of a volume that is never in memory: its grey values and scores lie on scratch disk."""

import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice, takewhile
from pathlib import Path

import numpy as np

from ..data.padding import fill_padding
from ..data.resizing import resize_probability, resize_slice, scaled_length
from ..data.slices import Slices
from ..distributed import Shard
from ..errors import InputError, tell
from ..files import format_size, open_reserved
from ..progress import progress_bar

Score = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
"""From a stream of slices, each (H, W) uint8 or uint16, to that of their score maps, each (H, W) float32."""

# Planes are read and written several at a time: along the last axis a cache line holds 32 grey values, each of another
# plane, and a page 2,048. As many as fill this, so that the memory in use is the same whatever a plane's size.
BLOCK_BYTES = 16 * 2**20
BYTES_PER_VOXEL = 4  # uint16 grey value and float16 score


def mean_over_axes(
    slices: Slices,
    score: Score,
    scale: float,
    scratch_dir: Path | str | None,
    go_on: Callable[[], bool] = lambda: True,
    shard: Shard = Shard(),  # noqa: B008
    reach: int = 0,
) -> Iterator[np.ndarray]:
    """Scores a volume along z, y and x and averages.

    The memory in use does not follow the volume: two blocks of 16 MiB of grey values, two of scores, and what `score`
    itself holds of a few planes. The memory maps take 4 bytes per voxel of scratch disk, which the system keeps in
    memory as long as nothing else needs it.

    Args:
        slices: D grey slices of one size and dtype, read once and in order; a Volume reads each on access.
        score: scores a stream of planes, whichever axis they cut.
        scale: resizes the volume along all three axes before, and the scores back after.
        scratch_dir: an existing folder; None takes the system's own. Nothing is left there.
        go_on: asked before each plane; once it says no, no more are scored, and each voxel's mean is that over the
            planes which reached it.
        shard: the planes along each axis that this process scores; all of them use the first one's scratch.
        reach: how many planes beyond these its scores depend on.

    Yields:
        D score maps, each (H, W) float32; fewer where not even z was finished.

    Raises:
        InputError: no such folder, no room in it, or slices that cannot be stacked.
    """
    depth, (height, width) = len(slices), slices[0].shape
    shape = scaled_length(depth, scale), scaled_length(height, scale), scaled_length(width, scale)
    with _scratch(scratch_dir, shape, shard) as folder:
        if shard.rank == 0:
            _store(folder, slices, shape)
        shard.wait()
        tell(f"{shape[0]} x {shape[1]} x {shape[2]} voxels lie in {folder}")
        volume, total = (
            np.load(f"{folder}/{name}.npy", mmap_mode="r+", allow_pickle=False) for name in ("grey", "scores")
        )
        done = []
        for axis, name in enumerate("zyx"):
            part = shard.part(shape[axis])
            shown = range(max(0, part.start - reach), min(shape[axis], part.stop + reach))
            planes = planes_along(volume, axis, shown)
            progress = progress_bar(
                f"along {name}", len(shown), planes, unit="plane", shown=shard.rank == 0, leave=False
            )
            scores = islice(
                score(takewhile(lambda _: go_on(), progress)), part.start - shown.start, part.stop - shown.start
            )
            end = add_along(total, axis, scores, part.start)
            done.append(shape[axis] if end == part.stop else end)
            shard.wait()
        means = resample_along(_divided(total, *done), shape[0], depth)
        for mean in islice(means, depth if done[0] == shape[0] else done[0] * depth // shape[0]):
            yield resize_probability(mean, height, width)


def scratch_folder(scratch_dir: Path | str | None) -> Path:
    """The folder of a setting; None is the system's own.

    Raises:
        InputError: it is missing.
    """
    folder = Path(scratch_dir or tempfile.gettempdir())
    if not folder.is_dir():
        raise InputError(f"scratch_dir {folder} is missing: make the folder or name another")
    return folder


def planes_along(volume: np.ndarray, axis: int, shown: range | None = None) -> Iterator[np.ndarray]:
    """Reads planes across an axis of a memory-mapped volume (D, H, W), in order, several at a time: these or all."""
    moved = np.moveaxis(volume, axis, 0)
    moved = moved if shown is None else moved[shown.start : shown.stop]
    count = _block_length(moved)
    for first in range(0, len(moved), count):
        yield from np.ascontiguousarray(moved[first : first + count])


def add_along(total: np.ndarray, axis: int, scores: Iterable[np.ndarray], first: int = 0) -> int:
    """Adds score maps to a memory-mapped volume (D, H, W), as the planes across an axis, several at a time.

    Args:
        first: the plane that the first map is for.

    Returns:
        The plane after the last one.
    """
    moved, end = np.moveaxis(total, axis, 0), first
    scores = (score.astype(total.dtype) for score in scores)
    count = _block_length(moved)
    while block := list(islice(scores, count)):
        moved[end : end + len(block)] += np.stack(block)
        end += len(block)
    return end


def _block_length(planes: np.ndarray) -> int:
    """How many planes of (N, H, W) make a block."""
    return max(1, BLOCK_BYTES // max(1, planes[:1].nbytes))


def resample_along(planes: Iterable[np.ndarray], depth: int, new_depth: int) -> Iterator[np.ndarray]:
    """Resamples a stream of planes linearly to another number of them; two are held.

    Args:
        planes: `depth` arrays of one shape.

    Yields:
        `new_depth` arrays, float32 where a plane lies between two; the planes themselves when nothing changes.
    """
    if depth == new_depth:
        yield from planes
        return
    source, read = iter(planes), 0
    kept: deque[np.ndarray] = deque(maxlen=2)
    for position in ((np.arange(new_depth) + 0.5) * depth / new_depth - 0.5).clip(0, depth - 1).tolist():
        below, above = int(position), min(int(position) + 1, depth - 1)
        while read <= above:
            kept.append(next(source))
            read += 1
        part = np.float32(position - below)
        yield (1 - part) * kept[0] + part * kept[-1] if below < above else kept[-1]


@contextmanager
def _scratch(scratch_dir: Path | str | None, shape: tuple[int, int, int], shard: Shard) -> Iterator[str]:
    """A new folder with room for a volume, made and removed by the first process, for all of them."""
    if shard.rank > 0:
        yield shard.tell("")
        return
    shard.check_one_machine("axes zyx")
    with tempfile.TemporaryDirectory(prefix="sennet-", dir=_check_scratch(scratch_dir, shape)) as folder:
        yield shard.tell(folder)


def _store(folder: str, slices: Slices, shape: tuple[int, int, int]) -> None:
    """Writes the resized volume, and zeros for its scores."""
    volume = open_reserved(f"{folder}/grey.npy", slices[0].dtype, shape)
    planes = (resize_slice(fill_padding(slice_), *shape[1:]) for slice_ in _alike(slices))
    for z, plane in enumerate(resample_along(planes, len(slices), shape[0])):
        volume[z] = np.rint(plane)
    open_reserved(f"{folder}/scores.npy", np.dtype(np.float16), shape)


def _divided(total: np.ndarray, z_done: int, y_done: int, x_done: int) -> Iterator[np.ndarray]:
    """The planes along z of summed scores, each voxel over how many axes have reached it: (H, W) float32."""
    height, width = total.shape[1:]
    in_plane = (np.arange(height) < y_done)[:, None].astype(np.float32) + (np.arange(width) < x_done)
    for z, plane in enumerate(planes_along(total, 0)):
        yield plane.astype(np.float32) / np.maximum(in_plane + (z < z_done), 1)


def _alike(slices: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    first = None
    for z, slice_ in enumerate(slices):
        first = slice_ if first is None else first
        if (slice_.shape, slice_.dtype) != (first.shape, first.dtype):
            raise InputError(
                f"slice {z + 1} is {slice_.dtype} {slice_.shape} but the first is {first.dtype} {first.shape}: "
                f"slices that differ cannot be stacked, so choose axes z"
            )
        yield slice_


def _check_scratch(scratch_dir: Path | str | None, shape: tuple[int, ...]) -> Path:
    """The existing folder, after a look at its room."""
    folder = scratch_folder(scratch_dir)
    needed, free = BYTES_PER_VOXEL * int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"scratch_dir {folder} has {format_size(free)} free but axes zyx needs {format_size(needed)}: "
            f"name a folder with more room, or choose axes z"
        )
    return folder
