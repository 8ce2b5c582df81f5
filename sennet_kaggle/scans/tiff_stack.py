"""A TIFF with many pages, or ImageJ's, as a scan."""

import logging
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ..errors import InputError
from .scan import Found, VoxelSize
from .sources import ArraySource, Layout, check_layout

logging.getLogger("tifffile").setLevel(logging.CRITICAL)
UNITS_UM = {
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre", "\\u00b5m"), 1.0),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
}
"""Micrometres in a unit of length, by its names."""


@dataclass(frozen=True)
class PagesSource:
    """A TIFF whose pages are decoded one by one."""

    path: Path
    layout: Layout
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.layout.shape

    def read(self, z: int) -> np.ndarray:
        with tifffile.TiffFile(self.path) as tiff:
            page = tiff.series[0].pages[z]
            if page is None:
                raise ValueError(f"page {z} is not there")
            return np.asarray(page.asarray()).reshape(self.shape[1:])


def open_stack(path: Path, axes: str | None) -> Found:
    """Opens a TIFF of several pages, or one that keeps a stack behind its only page as ImageJ does.

    Args:
        path: the file.
        axes: order of its axes; when not given, as the file says, and otherwise z, y, x.
    """
    with tifffile.TiffFile(path) as tiff:
        if len(tiff.series) > 1 and len({(series.shape, series.dtype) for series in tiff.series}) == 1:
            raise InputError(
                f"{path} holds {len(tiff.series)} separate images, not one stack: save it as one, in ImageJ by "
                f"File > Save As > Tiff"
            )
        series = tiff.series[0]
        if series.axes == "YX":
            raise InputError(_why_no_stack(path, tiff))
        layout = check_layout(path, series.shape, axes or _axes_of(series), series.dtype)
        if series.dataoffset is not None:  # all pixels in one piece, as they are
            end = series.dataoffset + series.nbytes
            if end > tiff.filehandle.size:
                raise InputError(f"{path} is truncated: expected {end} bytes, found {tiff.filehandle.size}")
            dtype = series.dtype.newbyteorder(tiff.byteorder)
            form = {"dtype": dtype, "mode": "r", "offset": series.dataoffset, "shape": series.shape}
            source: Any = ArraySource(partial(np.memmap, path, **form), layout, dtype)
        elif layout.axes.replace("z", "").endswith("yx") and len(series.pages) == layout.shape[0]:
            source = PagesSource(path, layout, series.dtype)
        else:
            raise InputError(f"{path} must have one page per slice or be uncompressed, found axes {layout.axes}")
        spatial = "".join(name for name in layout.axes if name in "zyx")
        return Found(source, spatial, voxel_size_of(tiff, path))


def _why_no_stack(path: Path, tiff: tifffile.TiffFile) -> str:
    """What is wrong with a file in which there is one image, or one of each kind."""
    images = int((tiff.imagej_metadata or {}).get("images", 1))
    if images > 1:
        return f"{path} is truncated: expected {images} images, found one: copy it again"
    first, other = (tiff.series * 2)[:2]
    if len(tiff.series) > 1:
        return (
            f"{path} must have pages of one size and kind, found {first.dtype} {first.shape} and {other.dtype} "
            f"{other.shape}: save the scan alone"
        )
    return f"{path} is one slice: expected a stack, or name the folder of slices"


def voxel_size_of(tiff: tifffile.TiffFile, path: Path) -> VoxelSize | None:
    """The voxel size that ImageJ or OME keeps in a TIFF; None where there is none."""
    from .arrays import check_positive

    size = _imagej_size(tiff) if tiff.is_imagej else _ome_size(tiff) if tiff.is_ome else None
    return size and check_positive(size, path)


def _axes_of(series: tifffile.TiffPageSeries) -> str:
    """The axes that a file names; a single unnamed one of pages is z."""
    axes = series.axes.lower()
    if "z" not in axes:
        others = [name for name in axes if name in "qit"]
        if len(others) == 1:
            axes = axes.replace(others[0], "z")
    return axes


def _imagej_size(tiff: tifffile.TiffFile) -> VoxelSize | None:
    found = tiff.imagej_metadata or {}
    unit = UNITS_UM.get(str(found.get("unit", "")).strip().lower())
    if unit is None:
        return None
    tags = tiff.pages.first.tags
    pixels = [tags.valueof(name) for name in ("YResolution", "XResolution")]
    if not all(isinstance(each, tuple) and len(each) == 2 and all(each) for each in pixels):
        return None
    y, x = (below / above for above, below in pixels)
    return float(found.get("spacing", y)) * unit, y * unit, x * unit


def _ome_size(tiff: tifffile.TiffFile) -> VoxelSize | None:
    text, sizes = tiff.ome_metadata or "", []
    for name in "ZYX":
        size = re.search(rf'\bPhysicalSize{name}="([^"]+)"', text)
        unit = re.search(rf'\bPhysicalSize{name}Unit="([^"]+)"', text)
        factor = UNITS_UM.get(unit[1].lower()) if unit else 1.0  # micrometres where none is named
        if size is None or factor is None:
            return None
        sizes.append(float(size[1]) * factor)
    return sizes[0], sizes[1], sizes[2]
