"""A file or folder of any format → a scan, or one line that says why not."""

from dataclasses import replace
from pathlib import Path

from ..data.volume import is_folder
from ..errors import InputError
from .arrays import check_axes, open_nifti, open_npy
from .folder import JPEG_2000, PNG, TIFF, open_folder
from .ome_zarr import is_zarr, open_ome_zarr
from .scan import Found, Scan, VoxelSize, reading
from .tiff_stack import open_stack

_ENDINGS = (".ome.zarr", ".ome.tiff", ".ome.tif", ".nii.gz", ".zarr", ".nii", ".npy", *TIFF)
_KNOWN = "a folder of slices (.tif, .png, .jp2), a TIFF stack, .npy, .nii, .nii.gz or an OME-Zarr folder"


def open_scan(
    path: Path | str,
    level: str | int | None = None,
    *,
    axes: str | None = None,
    voxel_size_um: float | VoxelSize | None = None,
) -> Scan:
    """Opens a scan; of its slices nothing is read before it is asked for.

    Args:
        path: a folder of slices, a TIFF stack, `.npy`, NIfTI, or OME-Zarr.
        level: resolution level of an OME-Zarr; the finest when not given.
        axes: order of the file's axes where it does not say, such as "xyz".
        voxel_size_um: instead of what the file says; one number for cubes.

    Returns:
        D slices (H, W) uint8, uint16, or bool.

    Raises:
        InputError: missing, damaged, of no known format, not one volume of numbers, or a level that is not there.
    """
    path = Path(path)
    if voxel_size_um is not None:
        voxel_size_um = _check_size(voxel_size_um)
    check_axes(axes)
    with reading(path, "cannot be read"):
        found = _open(path, level, axes)
    if voxel_size_um is not None:
        found = replace(found, voxel_size_um=voxel_size_um)
    stems = found.stems or tuple(f"{z:04d}" for z in range(found.source.shape[0]))
    return Scan(scan_name(path), tuple(map(Path, stems)), path=path, found=found, asked_axes=axes)


def open_mask(path: Path | str, level: str | int | None = None, *, axes: str | None = None) -> Scan:
    """As `open_scan`, for a mask in any numbers: slices are (H, W) bool, True where the file has other than 0."""
    return replace(open_scan(path, level, axes=axes), is_mask=True)


def scan_name(path: Path) -> str:
    """The name of a scan: that of its file without the ending."""
    name = Path(path).absolute().name
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] or name


def _open(path: Path, level: str | int | None, axes: str | None) -> Found:
    if is_folder(path):
        if is_zarr(path):
            return open_ome_zarr(path, level, axes)
        _check_no_level(level, path)
        if path.name.lower().endswith(".zarr"):
            raise InputError(f"{path} is not a Zarr group or array: expected zarr.json, .zgroup or .zarray in it")
        if axes not in (None, "zyx"):
            raise InputError(f"axes of a folder of slices are zyx, got {axes}: leave them out")
        return open_folder(path)
    if not path.exists():
        raise InputError(f"{path} is missing: expected {_KNOWN}")
    _check_no_level(level, path)
    name = path.name.lower()
    if name.endswith(TIFF):
        return open_stack(path, axes)
    if name.endswith(".npy"):
        return open_npy(path, axes)
    if name.endswith((".nii", ".nii.gz")):
        return open_nifti(path, axes)
    if name.endswith((*PNG, *JPEG_2000)):
        raise InputError(f"{path} is one slice: name the folder of slices")
    raise InputError(f"{path} is of no known format: expected {_KNOWN}")


def _check_no_level(level: str | int | None, path: Path) -> None:
    if level is not None:
        raise InputError(f"{path} has no levels, only OME-Zarr has: leave out level {level}")


def _check_size(voxel_size_um: float | VoxelSize) -> VoxelSize:
    sizes = (voxel_size_um,) * 3 if isinstance(voxel_size_um, int | float) else tuple(voxel_size_um)
    if len(sizes) != 3 or not all(0 < size < 1e6 for size in sizes):
        raise InputError(f"voxel_size_um must be a size in micrometres above 0, or three of them, got {voxel_size_um}")
    return sizes[0], sizes[1], sizes[2]
