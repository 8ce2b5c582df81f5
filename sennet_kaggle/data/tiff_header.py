"""What the header of a TIFF must say before its pixels are read as a slice or a label."""

import errno
import operator
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC, PLANARCONFIG, PREDICTOR

from ..errors import InputError, one_line, warn

GREY_BITS = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}
LABEL_BITS = {**GREY_BITS, np.dtype(np.bool_): 1}
# The competition's largest slice has 4 million pixels; a damaged header may ask for terabytes.
MAX_PIXELS = 2**26
# What OpenCV decodes: tifffile needs imagecodecs for these, which the Kaggle image lacks.
BY_OPENCV = (COMPRESSION.LZW, COMPRESSION.CCITTRLE, COMPRESSION.CCITTFAX3, COMPRESSION.CCITTFAX4)

_UIC2_TAG = 33629  # MetaMorph: one value for each image of the stack
_PHOTOMETRICS: dict[int, str] = {
    PHOTOMETRIC.MINISWHITE: "inverted grey values (WhiteIsZero)",
    PHOTOMETRIC.PALETTE: "indices into a colour table (palette)",
    PHOTOMETRIC.MASK: "a transparency mask",
    PHOTOMETRIC.SEPARATED: "inks (CMYK)",
}

# How a file begins that is no TIFF, what it is, and the remedy.
_OTHER_KINDS = {
    (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"\0\0\0\x0cjP"): "another image format: convert it, do not just rename it",
    (b"version https://git-lfs",): "a git-lfs pointer, not the file itself: run git lfs pull",
    (
        b"\x1f\x8b",
        b"PK\x03\x04",
        b"BZh",
        b"\xfd7zXZ",
        b"\x28\xb5\x2f\xfd",
        b"7z\xbc\xaf",
    ): "a compressed file: unpack it first",
    (b"<!", b"<html", b"<HTML", b"<?xml"): "a web page: download the file itself",
}


@contextmanager
def open_page(path: Path | str, label: bool = False) -> Iterator[tifffile.TiffPage]:
    """Opens a TIFF and gives its only page, after all checks that need no pixels.

    Args:
        path: the file.
        label: whether 1-bit pixels will do.

    Raises:
        InputError: the file is missing, may not be read, is damaged, or is not one grey slice that can be decoded.
    """
    path = Path(path)
    with reading(path, "is not a TIFF or is damaged"):
        try:
            tiff = tifffile.TiffFile(path)
        except tifffile.TiffFileError:
            _check_kind(path)
            raise
    with tiff:
        with reading(path, "is truncated or damaged"):
            _check_directory(path, tiff)
            page = tiff.pages.first
            in_one = _images_in_one(page, path) if len(tiff.pages) == 1 else 1
            planes = page.samplesperpixel if page.planarconfig == PLANARCONFIG.SEPARATE else 1
            images = max(len(tiff.pages), page.imagedepth, planes, in_one)
            if images > 1 and page.dtype is not None:  # numbers of no known kind are refused below
                how = _how_to_split(path.resolve(), page, page.dtype, in_one)
                raise InputError(f"{path} holds {images} images: expected one slice per file. {how}")
            end = max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True))
        if end > tiff.filehandle.size:
            raise InputError(f"{path} is truncated: expected {end} bytes, found {tiff.filehandle.size}: copy it again")
        with reading(path, "is truncated or damaged"):
            _check_pixels(path, page, label)
            _check_codec(path, page)
            _check_segments(path, page)
            _warn_of_orientation(path, page)
        yield page


@contextmanager
def reading(path: Path, problem: str) -> Iterator[None]:
    """Makes one line of whatever goes wrong while a file is read.

    Args:
        path: the file.
        problem: what the line says where the file itself is to blame.

    Raises:
        InputError: always; only damage is called damage, not missing memory, permission, decoder or file.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder: expected a TIFF file") from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read: check its permissions, e.g. with chmod u+r") from error
    except MemoryError as error:
        raise InputError(
            f"{path} could not be read for lack of memory: close other programs, or use fewer workers"
        ) from error
    except (ImportError, NotImplementedError) as error:
        raise InputError(f"{path} {_no_decoder(path, one_line(error))}") from error
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # an offset that points nowhere
            raise InputError(f"{path} {problem} ({one_line(error)}): copy it again") from error
        raise InputError(f"{path} could not be read ({error.strerror}): check the disk or network it is on") from error
    except Exception as error:  # zlib.error, struct.error, TiffFileError: whatever the damage leads to
        raise InputError(f"{path} {problem} ({one_line(error)}): copy it again") from error


def _check_directory(path: Path, tiff: tifffile.TiffFile) -> None:
    """Refuses a file that ends before the list of what is in it, which many programs write last."""
    file, order = tiff.filehandle, "little" if tiff.byteorder == "<" else "big"
    file.seek(4 if tiff.tiff.version == 42 else 8)  # 43 is BigTIFF
    at = int.from_bytes(file.read(tiff.tiff.offsetsize), order)  # type: ignore[arg-type]
    if not 0 < at < file.size:
        raise InputError(f"{path} is truncated: its directory is at byte {at}, found {file.size} bytes: copy it again")


def _check_kind(path: Path) -> None:
    """Names a file that is empty, or whole but of another kind."""
    with open(path, "rb") as file:
        begin = file.read(32)
    if not begin:
        raise InputError(f"{path} is an empty file: copy it again")
    found = next((found for begins, found in _OTHER_KINDS.items() if begin.startswith(begins)), None)
    if found:
        raise InputError(f"{path} is not a TIFF: found {found}")


def _images_in_one(page: tifffile.TiffPage, path: Path) -> int:
    """How many images lie one behind the other where the header of one stands for all.

    So do the stacks of ImageJ, MetaMorph and tifffile, uncompressed; the metadata say how many there are.
    """
    text, stk = page.description, page.tags.get(_UIC2_TAG)
    sizes = {
        name: int(n) for name, n in re.findall(r"^(images|channels|slices|frames)=(\d{1,9})\b", text, re.MULTILINE)
    }
    shape = re.search(r'"shape": \[(\d{1,9}(?:, ?\d{1,9})*)\]', text)
    claims = (
        stk.count if stk else 1,
        sizes.pop("images", 1),
        prod(sizes.values()),
        prod(map(int, shape[1].split(","))) // prod(page.shape) if shape and prod(page.shape) else 1,
        prod(map(int, re.findall(r'\bSize[ZCT]="(\d{1,9})"', text)[:3])),
    )
    if max(claims) == 1 or page.compression != COMPRESSION.NONE:
        return 1
    images = min(max(claims), (page.parent.filehandle.size - page.dataoffsets[0]) // max(_layout(page)[2], 1))
    if images == 1 and "<OME" not in text:  # OME may describe the images of other files
        warn(f"{path} says that it holds {max(claims)} images but has data for one, which is read", path.parent)
    return images


def _how_to_split(path: Path, page: tifffile.TiffPage, dtype: np.dtype, in_one: int) -> str:
    """A command that makes a file of each image, numbered from 0000."""
    size = page.shape[page.axes.find("Y") :]
    module, stack = "tifffile", f"tifffile.imread({str(path)!r})"
    if page.compression in BY_OPENCV:
        module, stack = "cv2", f"cv2.imreadmulti({str(path)!r}, flags=-1)[1]"
    elif in_one > 1 and page.bitspersample % 8 == 0:  # tifffile trusts the metadata, which may promise too much
        form = dtype.newbyteorder(page.parent.byteorder).str
        count, offset = in_one * prod(size), page.dataoffsets[0]
        module, stack = "numpy", f"numpy.fromfile({str(path)!r}, {form!r}, {count}, offset={offset})"
    modules = "tifffile" if module == "tifffile" else f"{module}, tifffile"
    if module != "cv2":
        stack += f".reshape(-1, {', '.join(map(str, size))})"
    first = "" if _is_decodable(page) else "pip install imagecodecs; "
    photometric = "rgb" if len(size) > 2 else "minisblack"
    return (
        f'Split it, in a new folder: {first}python -c "import {modules}; '
        f"[tifffile.imwrite(f'{{z:04d}}.tif', s, photometric='{photometric}') for z, s in enumerate({stack})]\""
    )


def _check_pixels(path: Path, page: tifffile.TiffPage, label: bool) -> None:
    """What a pixel is, and how many there are."""
    bits, or_bits = (LABEL_BITS, " or single bits") if label else (GREY_BITS, "")
    if page.dtype not in bits or page.bitspersample != bits[page.dtype]:
        raise InputError(
            f"{path} is not a slice: expected 8- or 16-bit unsigned grey values{or_bits}, "
            f"found {page.bitspersample}-bit {page.dtype}: scale it to 0..255 or 0..65535 and save it as such"
        )
    white_bits = page.bitspersample == 1 and page.photometric == PHOTOMETRIC.MINISWHITE
    if page.photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB) and not white_bits:
        found = _PHOTOMETRICS.get(page.photometric) or str(getattr(page.photometric, "name", page.photometric))
        raise InputError(
            f"{path} stores {found}: expected grey values with black as zero: convert it to 8- or 16-bit grey "
            f"(ImageJ: Image > Type) and save it with black as zero"
        )
    grey, colour = page.axes == "YX", page.axes == "YXS" and page.photometric == PHOTOMETRIC.RGB
    if not grey and not (colour and page.shape[2] == 3):
        raise InputError(
            f"{path} has {page.samplesperpixel} channels ({page.axes} {page.shape}): expected one, "
            f"or red = green = blue pixel by pixel: save the grey channel alone"
        )
    height, width = map(operator.index, page.shape[:2])  # a damaged tag may hold bytes
    if height * width > MAX_PIXELS:
        raise InputError(f"{path} claims to be {height}x{width}, too large for a slice: copy it again")
    if white_bits:
        bit = "0, which are white," if zeros_are_vessel(page) else "1, as tifffile writes them,"
        warn(f"{path} is a 1-bit label marked WhiteIsZero: its bits of {bit} are taken for vessel", path.parent)


def zeros_are_vessel(page: tifffile.TiffPage) -> bool:
    """Whether a label of single bits has its vessels, which are white, at 0.

    tifffile marks every bool array as WhiteIsZero, although it stores True as 1.
    """
    by_tifffile = str(page.tags.valueof("Software", "")).startswith("tifffile")
    return page.bitspersample == 1 and page.photometric == PHOTOMETRIC.MINISWHITE and not by_tifffile


def _check_codec(path: Path, page: tifffile.TiffPage) -> None:
    """Whether the pixels can be decoded here."""
    if not _is_decodable(page):
        raise InputError(f"{path} {_no_decoder(path, str(getattr(page.compression, 'name', page.compression)))}")
    if page.predictor not in (PREDICTOR.NONE, PREDICTOR.HORIZONTAL):
        raise InputError(f"{path} {_no_decoder(path, f'predictor {page.predictor}')}")


def _is_decodable(page: tifffile.TiffPage) -> bool:
    return page.compression in (COMPRESSION.NONE, *BY_OPENCV) or _has_decoder(page.compression)


@lru_cache
def _has_decoder(compression: int) -> bool:
    """Whether tifffile decodes a compression here."""
    try:
        tifffile.TIFF.DECOMPRESSORS[compression](b"")
    except (KeyError, ImportError):
        return False
    except Exception:  # no data to decode
        return True
    return True


def _no_decoder(path: Path, what: str) -> str:
    return (
        f"needs a decoder that is not installed ({what}): pip install imagecodecs, and for places without it, such as "
        f"Kaggle, rewrite the file: python -c \"import tifffile; tifffile.imwrite('NEW.tif', "
        f"tifffile.imread({str(path)!r}), compression='zlib')\""
    )


def _layout(page: tifffile.TiffPage) -> tuple[int, int, int]:
    """How many strips or tiles there must be, the bytes that one takes uncompressed, and those of all together."""
    if page.is_tiled:
        number, rows, width = prod(page.chunked), page.tilelength, page.tilewidth
    else:
        rows, width = min(page.rowsperstrip, page.imagelength), page.imagewidth
        number = -(-page.imagelength // rows)
    row = -(-width * page.samplesperpixel * page.bitspersample // 8)
    return number, rows * row, row * (number * rows if page.is_tiled else page.imagelength)


def _check_segments(path: Path, page: tifffile.TiffPage) -> None:
    """Whether every strip or tile has data of its own: decoders leave others black without a word."""
    number, size, total = _layout(page)
    word = "tiles" if page.is_tiled else "strips"
    offsets, counts = np.array(page.dataoffsets, np.int64), np.array(page.databytecounts, np.int64)
    raw = page.compression == COMPRESSION.NONE
    in_one = raw and page.is_contiguous and counts.sum() >= total
    needed = np.minimum(size, total - size * np.arange(len(counts)))
    order = np.argsort(offsets)
    if len(counts) < number and not in_one:
        problem = f"has data for {len(counts)} of its {number} {word}"
    elif empty := np.count_nonzero((counts == 0) | (offsets == 0)):
        problem = f"has no data for {empty} of its {len(counts)} {word}"
    elif raw and not in_one and (counts < needed).any():
        problem = f"has {word} that are shorter than their pixels"
    elif (np.diff(offsets[order]) < (np.minimum(counts, needed) if raw else counts)[order][:-1]).any():
        problem = f"has {word} that overlap"
    else:
        return
    raise InputError(f"{path} {problem}: expected data for every pixel: copy it again, or write it anew")


def _warn_of_orientation(path: Path, page: tifffile.TiffPage) -> None:
    """Rows and columns are those of the file, as in tifffile, scikit-image and ImageJ, whatever the tag says."""
    orientation = page.tags.valueof("Orientation", 1)
    if orientation != 1:
        warn(
            f"{path} has orientation tag {orientation}: pixels are taken as they are stored and not turned, "
            f"in images and labels alike",
            path.parent,
        )
