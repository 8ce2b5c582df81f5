"""Slices in order → a file or folder of any format, which is there whole or not at all."""

import gzip
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ..errors import InputError
from ..files import cannot_write, check_output, check_output_dir, open_reserved, replacing, replacing_dir
from .folder import TIFF
from .ome_zarr import is_zarr
from .ome_zarr_writing import check_zarr, write_zarr
from .scan import Scan, VoxelSize

Write = Callable[[np.ndarray], None]
"""Takes the next slice, (H, W)."""
_SUFFIXES = ".tif, .npy, .nii, .nii.gz, .zarr or, for a folder of TIFFs, no suffix"
_DTYPES = (np.bool_, np.uint8, np.uint16)


@contextmanager
def create_output(
    path: Path | str,
    shape: tuple[int, int, int],
    dtype: np.dtype | type,
    voxel_size_um: VoxelSize | None = None,
    like: Scan | None = None,
) -> Iterator[Write]:
    """Gives a function that takes the slices of a volume, in order; what they make is there when the block ends well.

    The name decides on the format: no suffix is a folder of TIFFs, `.tif` a BigTIFF with ImageJ's metadata, `.npy`,
    `.nii` and `.nii.gz` are themselves, and `.zarr` is OME-Zarr with a pyramid. A path `IMAGE.zarr/labels/NAME` adds a
    label to the OME-Zarr image there. Masks are 0 and 255 in TIFF, 0 and 1 elsewhere, bool in `.npy`.

    Args:
        path: what to make; an existing file is replaced, an existing folder must be empty.
        shape: D, H, W.
        dtype: bool for a mask, uint8 or uint16 for anything else.
        voxel_size_um: along z, y and x; left out of the file where it is None.
        like: the scan that the slices are of, whose axes, names and place in space are taken over where the format
            is the same.

    Raises:
        InputError: as `check_scan_output`, or there were more or fewer slices, or some of another size.
    """
    path, dtype = Path(path), np.dtype(dtype)
    if dtype not in _DTYPES:
        raise InputError(f"an output holds bool, uint8 or uint16, got {dtype}")
    check_scan_output(path, like)
    with ExitStack() as stack:
        put = stack.enter_context(_format(path)(path, shape, dtype, voxel_size_um, like))
        zs = count()

        def write(slice_: np.ndarray) -> None:
            z = next(zs)
            if slice_.shape != shape[1:] or z >= shape[0]:
                raise InputError(f"{path} takes {shape[0]} slices of {shape[1:]}, got slice {z + 1} of {slice_.shape}")
            put(z, np.asarray(slice_, dtype))

        yield write
        written = next(zs)
        if written != shape[0]:
            raise InputError(f"{path} must have {shape[0]} slices, got {written}")


def check_scan_output(path: Path | str, like: Scan | None = None) -> None:
    """Checks before the work that an output can be written.

    Raises:
        InputError: an unknown suffix, a folder that is not empty, a name or disk that cannot be written to, or the
            input itself.
    """
    path = Path(path)
    made = _format(path)
    if like is not None and like.path.exists() and (path.exists() and path.samefile(like.path)):
        raise InputError(f"cannot write {path}: it is the input, so name another")
    if like is not None and is_in_folder(path, like.path) and not is_zarr(like.path):
        raise InputError(f"cannot write {path}: it would lie among the slices of the input, so name another folder")
    if made is write_zarr:
        check_zarr(path)
    elif made is _folder:
        check_new_folder(path)
    else:
        check_output(path)


def check_new_folder(path: Path) -> None:
    """Raises InputError for a folder that has something in it, or cannot be made."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} must be new or an empty folder, found files: name another, or move it away")
    check_output_dir(path)


def is_in_folder(path: Path, folder: Path) -> bool:
    """Whether a path, which may not be there yet, lies in a folder, or is it."""
    return folder.is_dir() and path.resolve().is_relative_to(folder.resolve())


def is_zarr_output(path: Path) -> bool:
    """Whether an output of this name is an OME-Zarr, or a label in one."""
    return any(part.lower().endswith(".zarr") for part in path.absolute().parts)


def _format(path: Path) -> Callable[..., Any]:
    name = path.name.lower()
    if is_zarr_output(path):
        return write_zarr
    for endings, made in ((TIFF, _stack), ((".npy",), _npy), ((".nii", ".nii.gz"), _nifti)):
        if name.endswith(endings):
            return made
    if path.suffix and not path.is_dir():
        raise InputError(f"cannot write {path}: expected the suffix {_SUFFIXES}")
    return _folder


@contextmanager
def _folder(path: Path, shape: Any, dtype: np.dtype, voxel_size_um: VoxelSize | None, like: Scan | None) -> Any:
    stems = [each.stem for each in like.image_paths] if like is not None and len(like) == shape[0] else []
    stems = stems or [f"{z:04d}" for z in range(shape[0])]
    form = {"imagej": True, "compression": "zlib", **_imagej(voxel_size_um)}
    with replacing_dir(path) as folder, _explaining(path):
        yield lambda z, slice_: tifffile.imwrite(folder / f"{stems[z]}.tif", _in_bytes(slice_, 255), **form)


@contextmanager
def _stack(path: Path, shape: Any, dtype: np.dtype, voxel_size_um: VoxelSize | None, like: Scan | None) -> Any:
    dtype = np.dtype(np.uint8) if dtype == np.bool_ else dtype
    form = _imagej(voxel_size_um)
    form["metadata"]["axes"] = "ZYX"
    with replacing(path) as temporary_path, _explaining(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # ImageJ itself has no BigTIFF; Fiji and napari read it
        with open(temporary_path, "wb") as file:
            tifffile.imwrite(file, shape=shape, dtype=dtype, bigtiff=True, imagej=True, **form)
        with tifffile.TiffFile(temporary_path) as tiff:
            offset = tiff.pages.first.dataoffsets[0]
        with open(temporary_path, "r+b") as file:
            file.seek(offset)
            yield lambda z, slice_: file.write(np.ascontiguousarray(_in_bytes(slice_, 255)).data)


@contextmanager
def _npy(path: Path, shape: Any, dtype: np.dtype, voxel_size_um: VoxelSize | None, like: Scan | None) -> Any:
    axes = like.axes if like is not None and like.path.suffix.lower() == ".npy" else "zyx"
    order = ["zyx".index(name) for name in axes]
    with replacing(path) as temporary_path, _explaining(path):
        array = open_reserved(temporary_path, dtype, tuple(shape[index] for index in order))
        yield partial(_put, array.transpose([axes.index(name) for name in "zyx"]))
        array.flush()
        del array


@contextmanager
def _nifti(path: Path, shape: Any, dtype: np.dtype, voxel_size_um: VoxelSize | None, like: Scan | None) -> Any:
    import nibabel

    source = like.found.details.get("nifti") if like is not None else None
    dtype = np.dtype(np.uint8) if dtype == np.bool_ else dtype
    header = nibabel.Nifti1Header() if max(shape) < 2**15 else nibabel.Nifti2Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(tuple(shape[::-1]))
    z, y, x = voxel_size_um or (1.0, 1.0, 1.0)
    header.set_zooms((x / 1e3, y / 1e3, z / 1e3) if voxel_size_um else (1.0, 1.0, 1.0))
    header.set_xyzt_units("mm" if voxel_size_um else "unknown")
    affine = np.diag([*header.get_zooms()[:3], 1.0])
    if source is not None and like is not None and like.axes == "xyz":
        affine = source.affine
        header.set_zooms(source.header.get_zooms()[:3])
        header.set_xyzt_units(source.header.get_xyzt_units()[0])
    header.set_sform(affine, code=1)
    header["magic"] = header.single_magic
    with replacing(path) as temporary_path, _explaining(path), open(temporary_path, "wb") as raw:
        packed = path.name.lower().endswith(".gz")
        with gzip.GzipFile("", "wb", 6, raw, mtime=0) if packed else raw as file:
            header.set_data_offset(header.single_vox_offset)
            header.write_to(file)
            file.write(bytes(header.single_vox_offset - file.tell()))
            yield lambda z, slice_: file.write(np.ascontiguousarray(_in_bytes(slice_, 1)).data)


def _put(array: np.ndarray, z: int, slice_: np.ndarray) -> None:
    array[z] = slice_


def _in_bytes(slice_: np.ndarray, vessel: int) -> np.ndarray:
    """A mask as uint8; other slices as they are."""
    return slice_.astype(np.uint8) * np.uint8(vessel) if slice_.dtype == np.bool_ else slice_


def _imagej(voxel_size_um: VoxelSize | None) -> dict[str, Any]:
    """ImageJ's way to say how large voxels are."""
    if voxel_size_um is None:
        return {"metadata": {}}
    z, y, x = voxel_size_um
    return {"resolution": (1 / x, 1 / y), "metadata": {"spacing": z, "unit": "um"}}


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Says in one line that a disk is full, of files in a folder that is being made."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
