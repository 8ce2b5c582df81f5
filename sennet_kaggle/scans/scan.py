"""One scan of any format as a volume: slices along z, read one at a time, with their voxel size."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..data.volume import Volume
from ..errors import InputError, one_line, warn

VoxelSize = tuple[float, float, float]
"""Micrometres along z, y and x."""
_SAMPLED = 16


class Source(Protocol):
    """Where slices are read from."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """D, H, W."""

    @property
    def dtype(self) -> np.dtype:
        """Of the stored values."""

    def read(self, z: int) -> np.ndarray:
        """Slice z as stored, (H, W)."""


@dataclass(frozen=True)
class Found:
    """What a reader found in a file."""

    source: Source
    axes: str = "zyx"
    """Order of the file's spatial axes."""
    voxel_size_um: VoxelSize | None = None
    stems: tuple[str, ...] = ()
    """Names of the slices, where they are files."""
    details: dict[str, Any] = field(default_factory=dict)
    """What an output of the same format takes over."""


@dataclass(frozen=True)
class Scan(Volume):
    """A scan or mask as slices: `len(scan)` of them, `scan[z]` reads one, and so does iterating.

    Slices are (H, W) uint8, uint16 or, of a mask, bool. Other numbers are scaled to uint16, with a warning that says
    which of them become 0 and 65535.
    """

    path: Path = Path()
    found: Found = field(default_factory=lambda: Found(_Nothing()), repr=False)
    is_mask: bool = False
    """Slices are bool: whether the stored value is other than 0."""
    asked_axes: str | None = None
    """The order of the file's axes that the caller has named."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """D, H, W."""
        return self.found.source.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the slices: uint8, uint16 or bool."""
        stored = self.found.source.dtype.newbyteorder("=")
        if self.is_mask or stored == np.bool_:
            return np.dtype(np.bool_)
        return stored if stored in (np.uint8, np.uint16) else np.dtype(np.uint16)

    @property
    def voxel_size_um(self) -> VoxelSize | None:
        """Micrometres along z, y and x; None where the file does not say."""
        return self.found.voxel_size_um

    @property
    def axes(self) -> str:
        """Order of the spatial axes in the file, such as "zyx"; slices are always (y, x)."""
        return self.found.axes

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, z: int) -> np.ndarray:
        if not 0 <= z < len(self):
            raise IndexError(f"slice {z} of {len(self)}")
        stored = self.stored(z)
        if self.is_mask:
            return stored != 0
        if self.grey_range is None:
            return np.ascontiguousarray(stored, self.dtype)
        low, high = self.grey_range
        if stored.dtype.kind == "f" and not np.isfinite(stored).all():
            warn(f"{self.path} has voxels that are NaN or infinite: NaN is taken for {low:g}", self.path)
        scaled = (np.nan_to_num(stored, nan=low, posinf=high, neginf=low).astype(np.float32) - low) / (high - low)
        return np.rint(scaled.clip(0, 1) * 65535).astype(np.uint16)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[z] for z in range(len(self)))

    def stored(self, z: int) -> np.ndarray:
        """Slice z with the values of the file, (H, W) of its dtype.

        Raises:
            InputError: it cannot be read, or is of another size than the others.
        """
        with reading(self.path, f"is damaged at slice {z}"):
            slice_ = self.found.source.read(z)
        if slice_.shape != self.shape[1:]:
            raise InputError(f"{self.path}: slice {z} must be {self.shape[1:]} as the others, found {slice_.shape}")
        return slice_

    def slice_size(self, z: int) -> tuple[int, int]:
        return self.shape[1:]

    @cached_property
    def grey_range(self) -> tuple[float, float] | None:
        """Stored values that become 0 and 65535, of a sample of the slices; None where they stay as they are."""
        if self.is_mask or self.found.source.dtype.newbyteorder("=") in (np.uint8, np.uint16, np.bool_):
            return None
        zs = np.unique(np.linspace(0, len(self) - 1, _SAMPLED).round().astype(int)).tolist()
        sampled = [slice_[np.isfinite(slice_)] for slice_ in map(self.stored, zs)]
        values = [value for each in sampled if each.size for value in (float(each.min()), float(each.max()))]
        if not values:
            raise InputError(f"{self.path} must hold grey values, found none that is a finite number")
        low, high = min(values), max(values)
        found = f"{low:g} to {high:g}"
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        elif self.found.source.dtype.kind in "iu" and low >= 0 and high <= 65535:
            low, high = 0.0, 65535.0
        high = high if high > low else low + 1
        warn(
            f"{self.path} holds {self.found.source.dtype} values, {found} in {len(zs)} sampled slices: {low:g} becomes "
            f"0 and {high:g} becomes 65535, and what lies beyond is cut"
        )
        return low, high


@contextmanager
def reading(path: Path, problem: str) -> Iterator[None]:
    """Makes one line of whatever goes wrong in the libraries that read a scan; a missing one stays an error of its own.

    Args:
        path: what is read.
        problem: what the line says where the file itself is to blame.

    Raises:
        InputError: always.
    """
    try:
        yield
    except (InputError, ModuleNotFoundError):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{error.filename or path} is missing: copy the scan again") from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read: check its permissions, e.g. with chmod -R u+r") from error
    except MemoryError as error:
        raise InputError(f"{path} could not be read for lack of memory: close other programs") from error
    except Exception as error:  # of numpy, tifffile, nibabel, zarr, numcodecs: whatever the damage leads to
        if "imagecodecs" in str(error):
            raise InputError(f"{path} needs a decoder that is not installed: pip install imagecodecs") from error
        raise InputError(f"{path} {problem} ({one_line(error)}): copy it again") from error


@dataclass(frozen=True)
class _Nothing:
    """The source of a scan that was made without one."""

    shape: tuple[int, int, int] = (0, 0, 0)
    dtype: np.dtype = np.dtype(np.uint16)

    def read(self, z: int) -> np.ndarray:
        raise IndexError(z)
