"""A folder of slices, one file each, as a scan."""

import contextlib
import struct
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile

from ..data.names import natural_key
from ..data.tiff import read_grey
from ..data.tiff_header import open_page
from ..errors import InputError
from .scan import Found
from .tiff_stack import voxel_size_of

TIFF, PNG, JPEG_2000 = (".tif", ".tiff"), (".png",), (".jp2", ".j2k", ".jpx", ".j2c")
_KINDS = (TIFF, PNG, JPEG_2000)
_PNG_HEADER = struct.Struct(">8sI4sIIBB")
_PNG_DTYPES = {(8, 0): np.uint8, (16, 0): np.uint16}


@dataclass(frozen=True)
class FolderSource:
    """Files of one kind, size and dtype."""

    slice_paths: tuple[Path, ...]
    size: tuple[int, int]
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.slice_paths), *self.size

    def read(self, z: int) -> np.ndarray:
        slice_ = read_slice(self.slice_paths[z])
        if (slice_.shape, slice_.dtype) != (self.size, self.dtype):
            raise InputError(_differs(self.slice_paths[z], slice_.shape, slice_.dtype, self))
        return slice_


def open_folder(path: Path) -> Found:
    """Opens a folder of slices in ascending order of name, in which numbers count as numbers.

    Raises:
        InputError: no slices, slices of several kinds, sizes or dtypes, or two of one name.
    """
    names = [each for each in path.iterdir() if not each.name.startswith(".") and not each.is_dir()]
    kinds = {kind: [each for each in names if each.suffix.lower() in kind] for kind in _KINDS}
    there = {kind: paths for kind, paths in kinds.items() if paths}
    if not there:
        raise InputError(f"{path} has no slices: expected files *.tif, *.png or *.jp2, one per slice")
    if len(there) > 1:
        raise InputError(f"{path} has slices of several kinds, {' and '.join(k[0] for k in there)}: keep one of them")
    (paths,) = there.values()
    paths.sort(key=lambda each: (natural_key(each.stem), each.suffix))
    stems = tuple(each.stem for each in paths)
    if len({*stems}) < len(stems):
        raise InputError(f"{path} has two slices of the name {next(s for s in stems if stems.count(s) > 1)}: keep one")
    size, dtype = _form(paths[0])
    source = FolderSource(tuple(paths), size, dtype)
    for each in paths[1:]:
        form = _form(each) if each.suffix.lower() not in JPEG_2000 else (size, dtype)  # these when they are read
        if form != (size, dtype):
            raise InputError(_differs(each, *form, source))
    voxel_size_um = None
    if paths[0].suffix.lower() in TIFF:
        with tifffile.TiffFile(paths[0]) as tiff:
            voxel_size_um = voxel_size_of(tiff, paths[0])
    return Found(source, "zyx", voxel_size_um, stems)


def read_slice(path: Path) -> np.ndarray:
    """Reads one slice with its exact values: (H, W).

    Raises:
        InputError: damaged, in colour, or in a format for which a package is missing.
    """
    suffix = path.suffix.lower()
    if suffix in TIFF:
        return tifffile.imread(path) if _is_float(path) else read_grey(path)
    slice_ = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if slice_ is None and suffix in JPEG_2000:  # OpenCV does not know every kind of it
        slice_ = _decode_jpeg_2000(path)
    if slice_ is None:
        raise InputError(f"{path} is not a {suffix[1:].upper()} or is damaged: copy it again")
    if slice_.ndim == 3 and (slice_ == slice_[..., :1]).all():
        slice_ = np.ascontiguousarray(slice_[..., 0])
    if slice_.ndim != 2:
        raise InputError(f"{path} is coloured: expected one grey channel, found shape {slice_.shape}")
    return slice_


def _decode_jpeg_2000(path: Path) -> np.ndarray | None:
    """Decodes what OpenCV does not, with another package where there is one."""
    with contextlib.suppress(ModuleNotFoundError):
        import imagecodecs

        return imagecodecs.jpeg2k_decode(path.read_bytes())
    with contextlib.suppress(ModuleNotFoundError):
        import glymur

        return np.asarray(glymur.Jp2k(path)[:])
    return None


def _form(path: Path) -> tuple[tuple[int, int], np.dtype]:
    """(H, W) and the dtype of a slice, of its header alone where it has one that is simple."""
    if path.suffix.lower() in TIFF:
        if _is_float(path):
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages.first
                return (page.imagelength, page.imagewidth), np.dtype(page.dtype)
        with open_page(path) as page:
            return (page.imagelength, page.imagewidth), np.dtype(page.dtype)
    if path.suffix.lower() in PNG:
        with open(path, "rb") as file:
            header = file.read(_PNG_HEADER.size)
        if len(header) == _PNG_HEADER.size and header.startswith(b"\x89PNG"):
            *_, width, height, bits, colour = _PNG_HEADER.unpack(header)
            if (bits, colour) in _PNG_DTYPES:
                return (height, width), np.dtype(_PNG_DTYPES[bits, colour])
    slice_ = read_slice(path)
    return slice_.shape, slice_.dtype  # type: ignore[return-value]


def _is_float(path: Path) -> bool:
    """Whether a TIFF holds one grey image of floating-point numbers or wide integers."""
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            return len(tiff.pages) == 1 and page.axes == "YX" and page.dtype not in (np.uint8, np.uint16, np.bool_)
    except Exception:  # what is wrong with it is said by `read_grey`
        return False


def _differs(path: Path, size: tuple[int, ...], dtype: np.dtype, source: FolderSource) -> str:
    return (
        f"{path} is {dtype} {size} but {source.slice_paths[0].name} is {source.dtype} {source.size}: "
        f"slices must be alike, so put others elsewhere"
    )
