"""`.npy` and NIfTI files as scans."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, warn
from .scan import Found
from .sources import ArraySource, check_layout

# By the names that nibabel gives the units of a header.
_NPY = b"\x93NUMPY"
_NIFTI_UM = {"meter": 1e6, "mm": 1e3, "micron": 1.0}


def open_npy(path: Path, axes: str | None) -> Found:
    """Opens an array that numpy saved; the file says nothing of axes and voxel size.

    Args:
        path: the file.
        axes: order of its axes; z, y, x when not given.
    """
    array = _map_npy(path)
    axes = axes or "zyx"
    layout = check_layout(path, array.shape, axes, array.dtype)
    open_array = partial(np.load, path, mmap_mode="r", allow_pickle=False)
    return Found(ArraySource(open_array, layout, array.dtype), _spatial(axes))


def _map_npy(path: Path) -> np.ndarray:
    """The array of a file as a memory map.

    Raises:
        InputError: no array of numpy's, cut short, or of Python objects.
    """
    with open(path, "rb") as file:
        begin = file.read(len(_NPY))
    if begin != _NPY:
        found = f"it begins with {begin!r}" if begin else "it is empty"
        raise InputError(
            f"{path} is not an array that numpy saved ({found}): save it with numpy.save, or copy it again"
        )
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "mmap length" in str(error):
            size = path.stat().st_size
            raise InputError(
                f"{path} is truncated: its array is larger than its {size} bytes: copy it again"
            ) from error
        if "Python objects" in str(error):
            raise InputError(f"{path} must hold grey values, found Python objects: save it as uint16") from error
        raise


def open_nifti(path: Path, axes: str | None) -> Found:
    """Opens a NIfTI file, whose arrays are x, y, z; slices of a compressed one are unpacked one after the other.

    Args:
        path: the file.
        axes: order of its axes, if another.
    """
    import nibabel

    image: Any = nibabel.load(path, keep_file_open=True)
    sizes = tuple(image.dataobj.shape)
    _check_length(path, image)
    axes = (axes or "xyz") + "tuvw"[: max(0, len(sizes) - 3)] if len(axes or "xyz") == 3 else axes or ""
    # Of a file with a slope, whose values are scaled as they are read.
    dtype = np.asarray(image.dataobj[(slice(0, 1),) * len(sizes)]).dtype
    layout = check_layout(path, sizes, axes, dtype)
    unit = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
    zooms = dict(zip(axes, image.header.get_zooms(), strict=False))
    voxel_size_um = None
    if unit in _NIFTI_UM:
        z, y, x = (float(f"{zooms[name] * _NIFTI_UM[unit]:.6g}") for name in "zyx")  # stored as float32
        voxel_size_um = check_positive((z, y, x), path)
    elif any(zooms[name] != 1 for name in "zyx"):
        warn(f"{path} has voxels of {zooms['x']:g} without a unit: their size is not known, so give it in micrometres")
    source = ArraySource(lambda: image.dataobj, layout, dtype)
    return Found(source, _spatial(axes), voxel_size_um, details={"nifti": image})


def _check_length(path: Path, image: Any) -> None:
    """Refuses an unpacked file that ends before its last voxel."""
    needed = image.dataobj.offset + math.prod(image.dataobj.shape) * image.dataobj.dtype.itemsize
    if path.suffix.lower() == ".nii" and path.stat().st_size < needed:
        raise InputError(f"{path} is truncated: expected {needed} bytes, found {path.stat().st_size}: copy it again")


def check_positive(voxel_size_um: tuple[float, float, float], path: Path) -> tuple[float, float, float] | None:
    """The voxel size of a file; None, with a warning, where it is no size."""
    if all(np.isfinite(size) and size > 0 for size in voxel_size_um):
        return voxel_size_um
    warn(f"{path} names voxels of {voxel_size_um} micrometres: that is no size, so it is taken as not known")
    return None


def _spatial(axes: str) -> str:
    return "".join(name for name in axes if name in "zyx")


def check_axes(axes: str | None) -> str | None:
    """The order of axes that a caller names.

    Raises:
        InputError: z, y or x is missing or named twice.
    """
    if axes is not None and (any(axes.count(name) != 1 for name in "zyx") or len({*axes}) != len(axes)):
        raise InputError(f"axes must have each of z, y and x once, such as zyx or xyz, got {axes!r}")
    return axes
