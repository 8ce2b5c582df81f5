"""Labelled slices → images and masks of the model's size, made once and mapped from disk ever after."""

import contextlib
import dataclasses
import hashlib
import json
import math
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from ..config import Preprocessing
from ..errors import InputError
from ..files import file_digest, open_reserved, replacing
from ..locking import take_turns
from ..progress import progress_bar
from .intensity import IntensityRange, measure_intensity, slice_to_image
from .neighbours import read_stack
from .resizing import resize_image
from .transforms import mask_to_target
from .volume import Volume

# Part of the key: raise it whenever a pair would come out otherwise than before.
_FORMAT = 4
_IMAGE, _MASK = np.dtype(np.float32), np.dtype(np.bool_)
LOCK = ".cache.lock"
_LEFTOVER = re.compile(r"\..+-[0-9a-f]{16}\.(images|masks|grey|label|anchors)\.npy\.\d+\.tmp")


@dataclass(frozen=True)
class CachedSlices:
    """S slices of one volume on disk; pickled, it is its two paths, so worker processes map the same files."""

    images_path: Path
    masks_path: Path

    def __reduce__(self):
        return CachedSlices, (self.images_path, self.masks_path)

    @cached_property
    def images(self) -> np.ndarray:
        """(S, roi_size, roi_size) float32, read-only: as `resize_image`, before mean, std and channels."""
        return open_memmap(self.images_path, mode="r")

    @cached_property
    def masks(self) -> np.ndarray:
        """(S, roi_size, roi_size) bool, read-only."""
        return open_memmap(self.masks_path, mode="r")


def open_cache(cache_dir: Path | str, volume: Volume, zs: Sequence[int], preprocessing: Preprocessing) -> CachedSlices:
    """Opens the cache of a volume's labelled slices, and builds it first where there is none.

    It is named by what is in it: another pixel, slice id or setting makes another cache, while another date
    or folder does not. Of several processes one builds and the others wait; one that is killed leaves nothing
    that is taken for a cache.

    Args:
        cache_dir: made if missing; holds 5 * roi_size**2 bytes per slice, and caches are never deleted.
        volume: one kidney.
        zs: its labelled slices, in the order of the cache's rows.
        preprocessing: the settings of the model; mean and std come after the cache.

    Raises:
        InputError: a slice or label is missing or damaged, the folder cannot be made, or the disk is too small.
    """
    intensity = measure_intensity(volume, preprocessing)
    stem = f"{volume.name}-{cache_key(volume, zs, intensity, preprocessing)}"
    shape = (len(zs), preprocessing.roi_size, preprocessing.roi_size)
    cache_dir = Path(cache_dir)
    is_new = not cache_dir.exists()
    paths = cache_dir / f"{stem}.images.npy", cache_dir / f"{stem}.masks.npy"
    cached = _open_whole(paths, shape)
    if cached:
        return cached
    with take_turns(cache_dir / LOCK):
        cached = _open_whole(paths, shape)  # another process may have built it while this one waited
        if cached:
            return cached
        remove_leftovers(cache_dir)
        _check_space(cache_dir, volume, shape)
        try:
            _build(paths, shape, volume, zs, intensity, preprocessing)
        except BaseException:
            if is_new and [path.name for path in cache_dir.iterdir()] == [LOCK]:
                with contextlib.suppress(OSError):  # a waiting process may have begun to use it
                    (cache_dir / LOCK).unlink()
                    cache_dir.rmdir()
            raise
    return CachedSlices(*paths)


def cache_key(volume: Volume, zs: Sequence[int], intensity: IntensityRange, preprocessing: Preprocessing) -> str:
    """Names the content of a cache: 16 hexadecimal digits over files, slice ids, order and settings.

    Raises:
        InputError: as `Volume.label_path`.
    """
    settings = dataclasses.asdict(dataclasses.replace(preprocessing, mean=(), std=()))
    slice_ids = [volume.slice_ids[z] for z in zs]
    recipe = json.dumps([_FORMAT, settings, dataclasses.asdict(intensity), slice_ids])
    key = hashlib.blake2b(recipe.encode(), digest_size=8)
    for digest in file_digests([path for z in zs for path in (volume.image_paths[z], volume.label_path(z))]):
        key.update(digest)
    return key.hexdigest()


def file_digests(paths: Sequence[Path]) -> list[bytes]:
    """The hashes of files (see `files.file_digest`), behind a progress bar where they take long."""
    with ThreadPoolExecutor() as pool:
        digests = pool.map(file_digest, paths)
        return list(progress_bar("checking files", len(paths), digests, unit="file", leave=False, delay=1.0))


def read_pair(
    volume: Volume, z: int, intensity: IntensityRange, preprocessing: Preprocessing
) -> tuple[np.ndarray, np.ndarray]:
    """Reads one labelled slice, with the neighbours that the model sees with it, at the model's size.

    Returns:
        An image (C, h, w) float32, before mean and std, with C 1 where the offsets are all 0, and a mask (h, w)
        bool; h and w are roi_size, or with region "windows" H and W.

    Raises:
        InputError: as `Volume.label`.
    """
    stack = resize_image(read_stack(volume, z, preprocessing), preprocessing)
    target = mask_to_target(volume.label(z), preprocessing)
    return slice_to_image(stack, intensity, preprocessing), target[0].numpy() == 1


def _build(
    paths: tuple[Path, Path],
    shape: tuple[int, int, int],
    volume: Volume,
    zs: Sequence[int],
    intensity: IntensityRange,
    preprocessing: Preprocessing,
) -> None:
    with replacing(paths[0]) as images_path, replacing(paths[1]) as masks_path:
        images = open_reserved(images_path, _IMAGE, shape)
        masks = open_reserved(masks_path, _MASK, shape)

        def fill(row: int) -> None:
            (images[row],), masks[row] = read_pair(volume, zs[row], intensity, preprocessing)

        with ThreadPoolExecutor() as pool:  # reading, decoding and resizing release the interpreter's lock
            rows = pool.map(fill, range(len(zs)))
            for _ in progress_bar(f"caching {volume.name}", len(zs), rows):
                pass
        images.flush()
        masks.flush()


def _open_whole(paths: tuple[Path, Path], shape: tuple[int, int, int]) -> CachedSlices | None:
    """The cache, if both files are there with the shape, dtype and length they must have."""
    cached = CachedSlices(*paths)
    try:
        found = [(array.shape, array.dtype) for array in (cached.images, cached.masks)]
    except (OSError, ValueError):  # missing; cut short or not an array
        return None
    return cached if found == [(shape, _IMAGE), (shape, _MASK)] else None


def _check_space(cache_dir: Path, volume: Volume, shape: tuple[int, int, int]) -> None:
    # The clear words; the room itself is taken when the files are made.
    needed = math.prod(shape) * (_IMAGE.itemsize + _MASK.itemsize)
    free = shutil.disk_usage(cache_dir).free
    if needed > free:
        raise InputError(
            f"the cache of {volume.name} needs {needed} bytes and {cache_dir} has {free} free: delete old caches "
            "there, or choose another folder"
        )


def remove_leftovers(cache_dir: Path) -> None:
    """Deletes what killed builders left; the caller holds the lock, so no builder is alive."""
    for path in cache_dir.iterdir():
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
