"""One TIFF, one meaning: whatever the compression, or a line that names the cause."""

import logging
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from raw_tiff import ENCODERS, write_raw

from sennet_kaggle.data.tiff import read_form, read_grey, read_mask, read_size
from sennet_kaggle.errors import InputError, show_messages

GREY = np.random.default_rng(0).integers(0, 2**16, (37, 53), dtype=np.uint16)
MASK = GREY > 60000
IMAGEJ = "ImageJ=1.53t\nimages=3\nslices=3\nloop=false\n"


@pytest.fixture
def said():
    """The warnings of a test, each once."""
    texts = []
    messages = logging.getLogger("sennet_kaggle")
    handlers = messages.handlers
    show_messages(texts.append)
    yield texts
    messages.handlers = handlers


@pytest.mark.parametrize("compression", ENCODERS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_come_as_they_are_stored_whatever_the_orientation_tag_says(tmp_path, said, compression, orientation):
    path = tmp_path / "a.tif"
    write_raw(path, GREY, compression, orientation=orientation)
    np.testing.assert_array_equal(read_grey(path), GREY)
    assert read_form(path) == (GREY.shape, GREY.dtype)
    write_raw(path, MASK, compression, orientation=orientation)
    np.testing.assert_array_equal(read_mask(path), MASK)
    assert read_size(path, label=True) == GREY.shape
    assert [f"orientation tag {orientation}" in text for text in said] == [True] * (orientation != 1)


def test_one_folder_of_turned_slices_is_one_warning(tmp_path, said):
    for folder in ("images", "labels"):
        for z in range(3):
            write_raw(tmp_path / folder / f"{z}.tif", GREY, orientation=4)
            read_grey(tmp_path / folder / f"{z}.tif")
    assert len(said) == 2


@pytest.mark.parametrize("compression", ENCODERS)
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white is zero", "black is zero"])
def test_single_bits_are_a_mask(tmp_path, said, compression, byteorder, photometric):
    """White is vessel."""
    path = tmp_path / "a.tif"
    write_raw(path, MASK == photometric, compression, photometric=photometric, byteorder=byteorder)
    np.testing.assert_array_equal(read_mask(path), MASK)
    assert ["marked WhiteIsZero" in text for text in said] == [True] * (photometric == 0)
    with pytest.raises(InputError, match="expected 8- or 16-bit unsigned grey values, found 1-bit"):
        read_grey(path)


@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"photometric": "minisblack"}, {"compression": "zlib"}])
def test_a_bool_array_of_tifffile_is_a_mask(tmp_path, options):
    """Which marks them as WhiteIsZero and stores True as 1."""
    tifffile.imwrite(tmp_path / "a.tif", MASK, **options)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), MASK)


@pytest.mark.parametrize(
    "compression", [None, "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw", "tiff_deflate"]
)
def test_a_bilevel_image_of_pillow_is_a_mask(tmp_path, compression):
    Image.fromarray(MASK).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), MASK)


@pytest.mark.parametrize("compression", [1, 5, 8])
def test_a_predictor_that_is_not_known(tmp_path, compression):
    write_raw(tmp_path / "a.tif", GREY, compression, predictor=3)
    with pytest.raises(InputError, match=r"needs a decoder that is not installed \(predictor 3\)"):
        read_grey(tmp_path / "a.tif")


@pytest.mark.parametrize(("dtype", "one"), [(np.uint8, 1), (np.uint8, 255), (np.uint16, 255), (np.uint16, 65535)])
def test_values_of_a_mask(tmp_path, said, dtype, one):
    write_raw(tmp_path / "a.tif", MASK.astype(dtype) * dtype(one))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), MASK)
    assert said == []


@pytest.mark.parametrize("one", [2, 128, 254])
def test_no_other_value_is_vessel(tmp_path, one):
    write_raw(tmp_path / "a.tif", MASK.astype(np.uint8) * np.uint8(one))
    with pytest.raises(InputError, match=rf"expected 0 and 255, .* found also \[{one}\]"):
        read_mask(tmp_path / "a.tif")


def test_an_inverted_mask_is_read_with_a_warning(tmp_path, said):
    write_raw(tmp_path / "a.tif", ~MASK * np.uint8(255))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), ~MASK)
    assert len(said) == 1 and f"marks {(~MASK).mean():.0%} of the slice as vessel: expected 0 outside" in said[0]


def stacks() -> dict:
    stack = np.stack([GREY, GREY + 1, GREY + 2])
    rest = stack[1:].tobytes()
    return {
        "pages": lambda p: tifffile.imwrite(p, stack, photometric="minisblack", metadata=None),
        "pages of OME": lambda p: tifffile.imwrite(p, stack, photometric="minisblack", ome=True),
        "LZW pages": lambda p: cv2.imwritemulti(str(p), list(stack)),
        "deflate pages": lambda p: tifffile.imwrite(p, stack, photometric="minisblack", compression="zlib"),
        "big-endian BigTIFF": lambda p: tifffile.imwrite(
            p, stack, bigtiff=True, byteorder=">", photometric="minisblack"
        ),
        "planes": lambda p: tifffile.imwrite(p, stack, photometric="rgb", planarconfig="separate"),
        "volume of SGI": lambda p: tifffile.imwrite(p, stack, volumetric=True, photometric="minisblack"),
        "one page of tifffile": lambda p: tifffile.imwrite(p, stack, truncate=True, photometric="minisblack"),
        "one page of OME": lambda p: write_described(p, '<OME><Pixels SizeX="53" SizeZ="3" SizeC="1"/></OME>', rest),
        "one page of ImageJ": lambda p: write_described(p, IMAGEJ, rest),
        "one page of an ImageJ hyperstack": lambda p: write_described(p, "ImageJ=1\nchannels=3\nframes=1\n", rest),
        "one page of ImageJ, cut": lambda p: write_described(p, IMAGEJ.replace("3", "9"), rest),
    }


def write_described(path: Path, description: str, rest: bytes) -> None:
    tifffile.imwrite(path, GREY, photometric="minisblack", metadata=None, description=description)
    path.write_bytes(path.read_bytes() + rest)


@pytest.mark.parametrize("name", stacks())
def test_a_stack_is_refused_and_the_command_that_is_named_splits_it(tmp_path, monkeypatch, name):
    stacks()[name](tmp_path / "a.tif")
    with pytest.raises(InputError, match="holds 3 images: expected one slice per file. Split it") as caught:
        read_form(tmp_path / "a.tif")
    _, code = shlex.split(str(caught.value).partition("new folder: python ")[2])
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    exec(code, {})
    for z in range(3):
        np.testing.assert_array_equal(read_grey(tmp_path / "new" / f"{z:04d}.tif"), GREY + z)


def test_a_description_of_other_images_is_a_warning(tmp_path, said):
    """As left by a program that took one image out of a stack."""
    write_raw(tmp_path / "a.tif", GREY, description=IMAGEJ)
    np.testing.assert_array_equal(read_grey(tmp_path / "a.tif"), GREY)
    assert len(said) == 1 and "says that it holds 3 images but has data for one" in said[0]


@pytest.mark.parametrize("compression", ENCODERS)
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"change": lambda offsets, counts: counts.__setitem__(1, 0)}, "has no data for 1 of its 4 strips"),
        ({"change": lambda offsets, counts: offsets.__setitem__(3, 0)}, "has no data for 1 of its 4 strips"),
        ({"change": lambda offsets, counts: counts.__setitem__(slice(4), [0] * 4)}, "has no data for 4 of its 4"),
        ({"change": lambda offsets, counts: offsets.__setitem__(1, offsets[0])}, "has strips that overlap"),
        ({"change": lambda offsets, counts: counts.__setitem__(2, 20)}, "shorter than their pixels|cannot be decoded"),
        ({"keep": 3}, "has data for 3 of its 4 strips"),
    ],
    ids=["empty", "nowhere", "all empty", "overlap", "short", "too few"],
)
def test_a_strip_without_its_own_data_is_not_black(tmp_path, compression, options, problem):
    write_raw(tmp_path / "a.tif", GREY, compression, **options)
    with pytest.raises(InputError, match=problem):
        read_grey(tmp_path / "a.tif")


def test_a_sparse_tile_is_not_black(tmp_path):
    tiles = [GREY[:16, :16].tobytes(), b"", GREY[16:32, :16].tobytes(), GREY[16:32, 16:32].tobytes()]
    tifffile.imwrite(
        tmp_path / "a.tif", iter(tiles), shape=(32, 32), dtype=np.uint16, tile=(16, 16), photometric="minisblack"
    )
    with pytest.raises(InputError, match="has no data for 1 of its 4 tiles"):
        read_grey(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("compression", "name"),
    [
        (7, "JPEG"),
        (50000, "ZSTD"),
        (50001, "WEBP"),
        (34887, "LERC"),
        (34712, "JPEG2000"),
        (999, "999"),
    ],
)
def test_a_missing_decoder_is_named(tmp_path, compression, name):
    write_raw(tmp_path / "a.tif", GREY, compression)
    for read in (read_grey, read_form):
        with pytest.raises(
            InputError, match=rf"needs a decoder that is not installed \({name}\): pip install"
        ) as caught:
            read(tmp_path / "a.tif")
        assert "copy it again" not in str(caught.value)


@pytest.mark.parametrize(
    ("photometric", "what"),
    [(0, "inverted grey values"), (3, "indices into a colour table"), (4, "transparency mask"), (8, "CIELAB")],
)
def test_what_is_no_grey_value_is_not_taken_for_one(tmp_path, photometric, what):
    write_raw(tmp_path / "a.tif", (GREY >> 8).astype(np.uint8), photometric=photometric)
    for read in (read_grey, read_form, read_mask):
        with pytest.raises(InputError, match=f"stores .*{what}.*: expected grey values with black as zero"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_beside_the_grey_one(tmp_path, channels):
    image = np.stack([GREY] * channels, axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack" if channels == 2 else "rgb", planarconfig=1)
    with pytest.raises(InputError, match=f"has {channels} channels .* save the grey channel alone"):
        read_grey(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "int32", "float16", "float32", "float64"])
def test_other_numbers(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", MASK.astype(dtype), photometric="minisblack")
    for read in (read_grey, read_form, read_mask):
        with pytest.raises(InputError, match=f"found .*-bit {dtype}: scale it to"):
            read(tmp_path / "a.tif")


def test_a_stack_of_numbers_of_no_known_kind(tmp_path):
    """There is nothing to split: no program reads such images."""
    write_described(tmp_path / "a.tif", IMAGEJ, bytes(6 * GREY.nbytes))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages.first.tags["BitsPerSample"].overwrite(48)
    with pytest.raises(InputError, match="expected 8- or 16-bit unsigned grey values, found 48-bit None: scale it"):
        read_grey(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [4, 12])
def test_numbers_of_other_bits(tmp_path, bits):
    """Their decoder is missing here; with it, 4095 would be white."""
    write_raw(tmp_path / "a.tif", GREY)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages[0].tags["BitsPerSample"].overwrite(bits)
    with pytest.raises(InputError, match=f"found {bits}-bit"):
        read_grey(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "could not be read for lack of memory"),
        (PermissionError(13, "Permission denied"), "may not be read"),
        (OSError(5, "Input/output error"), r"could not be read \(Input/output error\): check the disk"),
        (TimeoutError(110, "Connection timed out"), r"could not be read \(Connection timed out\): check"),
        (ImportError("no zlib"), r"needs a decoder that is not installed \(no zlib\)"),
        (ValueError("bad"), r"cannot be decoded \(bad\): copy it again"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_only_damage_is_called_damage(tmp_path, monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    write_raw(tmp_path / "a.tif", GREY)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    with pytest.raises(InputError, match=message) as caught:
        read_grey(tmp_path / "a.tif")
    assert isinstance(error, ValueError) or "copy it again" not in str(caught.value)


def test_lack_of_memory_for_lzw(tmp_path, monkeypatch):
    """OpenCV says it in its own way."""

    def fail(*_):
        error = cv2.error("Insufficient memory")
        error.code = cv2.Error.StsNoMem
        raise error

    write_raw(tmp_path / "a.tif", GREY, 5)
    monkeypatch.setattr(cv2, "imdecode", fail)
    with pytest.raises(InputError, match="for lack of memory"):
        read_grey(tmp_path / "a.tif")


def test_a_folder_is_no_damaged_file(tmp_path):
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(InputError, match="a.tif is a folder: expected a TIFF file"):
        read_grey(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ENCODERS)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_rows_of_strips_and_byte_orders(tmp_path, compression, byteorder):
    for rows in (1, 10, 37):
        write_raw(tmp_path / "a.tif", GREY, compression, rows, byteorder=byteorder)
        np.testing.assert_array_equal(read_grey(tmp_path / "a.tif"), GREY)


def test_a_path_may_be_text(tmp_path, said):
    path = str(tmp_path / "a.tif")
    write_raw(tmp_path / "a.tif", GREY, orientation=4)
    np.testing.assert_array_equal(read_grey(path), GREY)
    write_raw(tmp_path / "a.tif", ~MASK, orientation=4)  # mostly vessel, which is said
    assert read_mask(path).shape == read_size(path, label=True)
