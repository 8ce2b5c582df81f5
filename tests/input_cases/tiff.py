"""Slices and labels."""

import csv
import gzip
import os

import numpy as np
import tifffile
from raw_tiff import write_raw

from . import PREDICT, TRAIN, Case

_GREY = np.random.default_rng(1).integers(0, 2**16, (40, 31), dtype=np.uint16)
_MASK = _GREY > 60000
_ZYX = f"{PREDICT} --axes zyx"
_STATS = "stats --data-dir data --volume kidney_1"
_IMAGES, _LABELS = "data/test/kidney_5/images", "data/train/kidney_1/labels"


def _slice(array=_GREY, **options):
    """Puts another TIFF in the place of a test slice."""
    return lambda folder: write_raw(folder / _IMAGES / "0001.tif", array, **options)


def _bytes(content):
    return lambda folder: (folder / _IMAGES / "0001.tif").write_bytes(content)


def _by_tifffile(array, **options):
    return lambda folder: tifffile.imwrite(folder / _IMAGES / "0001.tif", array, **options)


def _labels(array, **options):
    """Puts another TIFF in the place of each label."""

    def replace(folder):
        for z in range(3):
            write_raw(folder / _LABELS / f"{z:04d}.tif", array, **options)

    return replace


def _stack_of_imagej(folder):
    tail = np.stack([_GREY] * 13).tobytes()
    description = "ImageJ=1.53t\nimages=14\nslices=14\nloop=false\n"
    tifffile.imwrite(folder / _IMAGES / "0001.tif", _GREY, photometric=1, metadata=None, description=description)
    with open(folder / _IMAGES / "0001.tif", "ab") as file:
        file.write(tail)


def _one_tile_missing(folder):
    tiles = [bytes(512)] * 3 + [b""] + [bytes(512)] * 2
    tifffile.imwrite(
        folder / _IMAGES / "0001.tif", iter(tiles), shape=(40, 31), dtype=np.uint16, tile=(16, 16), photometric=1
    )


def _turned(folder):
    for z, compression in enumerate((1, 5, 8)):
        write_raw(folder / _IMAGES / f"{z:04d}.tif", _GREY, compression, orientation=4)


def _masks_are_alike(folder):
    assert len(set(_rows(folder).values())) == 1


def _hidden(folder):
    images = folder / _IMAGES
    for name in ("._0000.tif", ".DS_Store", "Thumbs.db"):
        (images / name).write_bytes(b"\0\5\x16\7")
    (images / ".ipynb_checkpoints").mkdir()
    (images / "0003.tif").mkdir()
    for name in (".ipynb_checkpoints", "__MACOSX"):
        write_raw(folder / "data/test" / name / "images" / "0000.tif", _GREY)


def _no_kidney(folder):
    (folder / "data/test/notes").mkdir()
    (folder / "data/test/notes/read me.txt").write_text("")


def _slices_beside_images(folder):
    write_raw(folder / "data/test/kidney_6/0000.tif", _GREY)


def _rename(**names):
    def rename(folder):
        for old, new in names.items():
            (folder / _IMAGES / f"{old[1:]}.tif").rename(folder / _IMAGES / f"{new}.tif")

    return rename


def _ids(*stems):
    def check(folder):
        assert list(_rows(folder)) == [f"kidney_5_{stem}" for stem in stems]

    return check


def _rows(folder):
    with open(folder / "out.csv", newline="") as file:
        return {row["id"]: row["rle"] for row in csv.DictReader(file)}


def _broken_link(folder):
    os.remove(folder / _IMAGES / "0001.tif")
    os.symlink("elsewhere.tif", folder / _IMAGES / "0001.tif")


TITLE = "Slices and labels"
CASES: list[Case] = [
    Case("a stack of ImageJ in one page", PREDICT, ("0001.tif holds 14 images", "Split it"), _stack_of_imagej),
    Case(
        "a file of three pages", PREDICT, "0001.tif holds 3 images", _by_tifffile(np.stack([_GREY] * 3), photometric=1)
    ),
    Case(
        "a volume in one page (ImageDepth)",
        PREDICT,
        "holds 3 images",
        _by_tifffile(np.stack([_GREY] * 3), volumetric=True, photometric=1),
    ),
    Case(
        "a palette image", PREDICT, "stores indices into a colour table", _slice(_GREY.astype(np.uint8), photometric=3)
    ),
    Case("WhiteIsZero", PREDICT, "stores inverted grey values", _slice(photometric=0)),
    Case("an RGBA image", PREDICT, "has 4 channels", _by_tifffile(np.stack([_GREY] * 4, -1), photometric=2)),
    Case("floating point", PREDICT, "found 32-bit float32: scale it", _by_tifffile(_GREY.astype(np.float32))),
    Case("signed integers", PREDICT, "found 16-bit int16: scale it", _by_tifffile(_GREY.astype(np.int16))),
    Case("a slice of single bits", PREDICT, "found 1-bit bool", _slice(_MASK)),
    Case("JPEG in a TIFF", PREDICT, "needs a decoder that is not installed (JPEG)", _slice(compression=7)),
    Case("ZSTD in a TIFF", PREDICT, "needs a decoder that is not installed (ZSTD)", _slice(compression=50000)),
    Case(
        "a strip of no length",
        PREDICT,
        "has no data for 1 of its 4 strips",
        _slice(change=lambda _, counts: counts.__setitem__(2, 0)),
    ),
    Case(
        "a strip of no length, LZW",
        PREDICT,
        "has no data for 1 of its 4 strips",
        _slice(compression=5, change=lambda _, counts: counts.__setitem__(2, 0)),
    ),
    Case("a sparse tile", PREDICT, "has no data for 1 of its 6 tiles", _one_tile_missing),
    Case(
        "two strips in one place",
        PREDICT,
        "has strips that overlap",
        _slice(change=lambda offsets, _: offsets.__setitem__(1, offsets[0])),
    ),
    Case(
        "a PNG named .tif",
        PREDICT,
        "is not a TIFF: found another image format: convert it",
        _bytes(b"\x89PNG\r\n\x1a\n"),
    ),
    Case("a git-lfs pointer", PREDICT, "run git lfs pull", _bytes(b"version https://git-lfs.github.com/spec/v1\n")),
    Case("a gzipped slice", PREDICT, "found a compressed file: unpack it first", _bytes(gzip.compress(b"II*\0"))),
    Case("a web page", PREDICT, "found a web page: download the file itself", _bytes(b"<!DOCTYPE html>")),
    Case("a link to nowhere", PREDICT, "0001.tif is missing", _broken_link),
    Case(
        "orientation 4 in three compressions",
        PREDICT,
        "images/0000.tif has orientation tag 4: pixels are taken as they are stored",
        _turned,
        refused=False,
        check=_masks_are_alike,
    ),
    Case(
        "a description of 14 images, one there",
        PREDICT,
        "says that it holds 14 images but has data for one",
        _slice(description="ImageJ=1.53t\nimages=14\n"),
        refused=False,
    ),
    Case(
        "hidden files, folders named as slices, `__MACOSX`",
        PREDICT,
        (),
        _hidden,
        refused=False,
        check=_ids("0000", "0001", "0002"),
    ),
    Case(
        "a folder of notes beside the kidneys",
        PREDICT,
        "data/test/notes is left out: expected a kidney",
        _no_kidney,
        refused=False,
        check=_ids("0000", "0001", "0002"),
    ),
    Case(
        "a kidney whose slices lie outside images/",
        PREDICT,
        "data/test/kidney_6/images is missing",
        _slices_beside_images,
    ),
    Case(
        "slices 2, 9 and 10 without zeros",
        PREDICT,
        (),
        _rename(_0000="10", _0001="9", _0002="2"),
        refused=False,
        check=_ids("2", "9", "10"),
    ),
    Case(
        "a gap in the numbers, along z",
        PREDICT,
        (),
        _rename(_0002="0005"),
        refused=False,
        check=_ids("0000", "0001", "0005"),
    ),
    Case(
        "a gap in the numbers, along three axes",
        _ZYX,
        "not consecutive (between 0001 and 0005), but axes zyx",
        _rename(_0002="0005"),
        refused=False,
    ),
    Case("labels of single bits", _STATS, (), _labels(_MASK), refused=False),
    Case(
        "labels of single bits, WhiteIsZero",
        _STATS,
        "its bits of 0, which are white, are taken for vessel",
        _labels(~_MASK, photometric=0),
        refused=False,
    ),
    Case("labels of 0 and 65535", _STATS, (), _labels(_MASK * np.uint16(65535)), refused=False),
    Case("labels of 0 and 128", _STATS, "found also [128]", _labels(_MASK * np.uint8(128))),
    Case(
        "inverted labels",
        _STATS,
        "% of the slice as vessel: expected 0 outside",
        _labels(~_MASK * np.uint8(255)),
        refused=False,
    ),
    Case("WhiteIsZero labels", TRAIN, "stores inverted grey values", _labels(_MASK * np.uint8(255), photometric=0)),
]
