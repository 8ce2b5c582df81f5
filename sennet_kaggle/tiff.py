"""One TIFF file → exact grey values, or one line that says what is wrong with it."""

import logging
import operator
from pathlib import Path

import cv2
import numpy as np
import tifffile

from .errors import InputError, one_line

GREY_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))
# The competition's largest slice has 4 million pixels; a damaged header may ask for terabytes.
MAX_PIXELS = 2**26

# A broken file is reported once, by the exception below, not three times by the decoders as well.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_grey(path: Path) -> np.ndarray:
    """Reads one slice with its exact values.

    Args:
        path: a TIFF of one page, grey or R=G=B, uncompressed, deflate or LZW.

    Returns:
        (H, W) uint8 or uint16, as stored.

    Raises:
        InputError: missing, truncated or corrupt, another dtype, several pages, or coloured.
    """
    with _open_tiff(path) as tiff:
        page = _first_page(tiff, path)
        try:
            if page.compression == tifffile.COMPRESSION.LZW:
                # tifffile needs imagecodecs for LZW, which the Kaggle image lacks.
                pixels = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
            else:
                pixels = page.asarray()
        except Exception as error:  # zlib.error, struct.error, cv2.error: whatever the damage leads to
            raise InputError(f"{path} cannot be decoded ({one_line(error)}): copy it again") from error
    if pixels is None or pixels.shape[:2] != page.shape[:2] or pixels.dtype != page.dtype:
        raise InputError(f"{path} cannot be decoded: copy it again")
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise InputError(f"{path} is coloured: expected one grey channel, or red = green = blue")
        pixels = np.ascontiguousarray(pixels[..., 0])
    return pixels


def read_size(path: Path) -> tuple[int, int]:
    """As `read_form`, (H, W) alone."""
    return read_form(path)[0]


def read_form(path: Path) -> tuple[tuple[int, int], np.dtype]:
    """Reads (H, W) and the dtype of a slice from its header alone.

    Raises:
        InputError: as `read_grey`, as far as a header can tell.
    """
    with _open_tiff(path) as tiff:
        page = _first_page(tiff, path)
        return page.shape[:2], page.dtype


def read_mask(path: Path) -> np.ndarray:
    """Reads one label as (H, W) bool; the file may hold 0/255 or 0/1.

    Raises:
        InputError: as `read_grey`, or more than one value besides 0.
    """
    label = read_grey(path)
    mask = label != 0
    values = np.unique(label[mask])
    if len(values) > 1 or (len(values) == 1 and values[0] not in (1, 255)):
        raise InputError(f"{path} is not a mask: expected 0 and 255, or 0 and 1, found also {values[:4].tolist()}")
    return mask


def _open_tiff(path: Path) -> tifffile.TiffFile:
    try:
        return tifffile.TiffFile(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except Exception as error:  # tifffile raises several kinds on damaged headers
        raise InputError(f"{path} is not a TIFF or is damaged ({one_line(error)}): copy it again") from error


def _first_page(tiff: tifffile.TiffFile, path: Path) -> tifffile.TiffPage:
    """The only page, after the checks that need no pixels."""
    try:
        pages = len(tiff.pages)
        page = tiff.pages[0]
        end = max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True))
        height, width = map(operator.index, page.shape[:2])  # a damaged tag may hold bytes
        channels = page.shape[2:] if page.photometric == tifffile.PHOTOMETRIC.RGB else page.shape[1:-1]
    except Exception as error:  # an offset that points nowhere, a missing tag
        raise InputError(f"{path} is truncated or damaged ({one_line(error)}): copy it again") from error
    if end > tiff.filehandle.size:
        raise InputError(f"{path} is truncated: expected {end} bytes, found {tiff.filehandle.size}: copy it again")
    if page.dtype not in GREY_DTYPES or pages != 1 or channels not in ((), (3,)):
        raise InputError(
            f"{path} is not a slice: expected one page of 8- or 16-bit unsigned grey values, "
            f"found {pages} page(s) of {page.dtype} {page.shape}"
        )
    if height * width > MAX_PIXELS:
        raise InputError(f"{path} claims to be {height}x{width}, too large for a slice: copy it again")
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        raise InputError(f"{path} stores inverted grey values (WhiteIsZero): save it with black as zero")
    return page
