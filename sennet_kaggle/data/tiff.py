"""One TIFF file → exact grey values, or one line that says what is wrong with it."""

import logging
import struct
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import tifffile

from ..errors import InputError, warn
from .tiff_header import BY_OPENCV, open_page, reading, zeros_are_vessel

# What a label may hold besides 0: one of these, the largest of its bits or 1.
_VESSEL = (1, 255, 65535)
# Vessels take up a few percent of a slice.
_INVERTED_ABOVE = 0.5

# A broken file is reported once, by the exception below, not three times by the decoders as well.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_grey(path: Path | str) -> np.ndarray:
    """Reads one slice with its exact values, in the order in which they are stored: no tag turns them.

    Args:
        path: a TIFF of one page, grey or R=G=B, in a compression that tifffile or OpenCV decodes.

    Returns:
        (H, W) uint8 or uint16, as stored.

    Raises:
        InputError: missing, truncated or corrupt, another dtype, several pages, or coloured.
    """
    return _read(path)


def read_size(path: Path | str, label: bool = False) -> tuple[int, int]:
    """As `read_form`, (H, W) alone."""
    return read_form(path, label)[0]


def read_form(path: Path | str, label: bool = False) -> tuple[tuple[int, int], np.dtype]:
    """Reads (H, W) and the dtype of a slice or label from its header alone.

    Raises:
        InputError: as `read_grey` or `read_mask`, as far as a header can tell.
    """
    with open_page(path, label) as page:
        height, width = page.shape[:2]
        return (height, width), cast(np.dtype, page.dtype)  # which has been checked


def read_mask(path: Path | str, may_be_full: bool = False) -> np.ndarray:
    """Reads one label as (H, W) bool; the file may hold 0/1 (also as single bits), 0/255 or 0/65535.

    Args:
        path: the file.
        may_be_full: it is no label of vessels, of which more than half of a slice would be said to be odd.

    Raises:
        InputError: as `read_grey`, or more than one value besides 0.
    """
    path = Path(path)
    label = _read(path, label=True)
    mask = label != 0
    values = np.unique(label[mask])
    if len(values) > 1 or (len(values) == 1 and values[0] not in _VESSEL):
        found = values[:4].tolist()
        raise InputError(f"{path} is not a mask: expected 0 and 255, 0 and 1 or 0 and 65535, found also {found}")
    if not may_be_full and mask.mean() > _INVERTED_ABOVE:
        warn(
            f"{path} marks {mask.mean():.0%} of the slice as vessel: expected 0 outside vessels; "
            f"if it is inverted, swap its two values",
            path.parent,
        )
    return mask


def _read(path: Path | str, label: bool = False) -> np.ndarray:
    path = Path(path)
    with open_page(path, label) as page:
        with reading(path, "cannot be decoded"):
            pixels = _decode_by_opencv(path, page) if page.compression in BY_OPENCV else page.asarray()
        if pixels is None or pixels.shape[:2] != page.shape[:2] or pixels.dtype != page.dtype:
            raise InputError(f"{path} cannot be decoded: copy it again")
        if zeros_are_vessel(page):
            pixels = ~pixels
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise InputError(f"{path} is coloured: expected one grey channel, or red = green = blue")
        pixels = np.ascontiguousarray(pixels[..., 0])
    return pixels


def _decode_by_opencv(path: Path, page: tifffile.TiffPage) -> np.ndarray | None:
    """The pixels as stored: OpenCV would turn them by one tag and invert single bits by another, so both are reset."""
    content = np.fromfile(path, dtype=np.uint8)
    for name in ("Orientation", "PhotometricInterpretation"):
        tag = page.tags.get(name)
        if tag is not None and (name == "Orientation" or tag.value == tifffile.PHOTOMETRIC.MINISWHITE):
            form = page.parent.byteorder + {1: "B", 3: "H", 4: "I"}[tag.dtype]
            one = np.frombuffer(struct.pack(form, 1), np.uint8)
            content[tag.valueoffset : tag.valueoffset + len(one)] = one
    try:
        pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise
    if pixels is not None and page.bitspersample == 1:
        return pixels != 0
    return pixels
