import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from conftest import write_tiff

from sennet_kaggle.data.names import consecutive_runs, natural_key
from sennet_kaggle.data.tiff import read_grey, read_mask
from sennet_kaggle.data.volume import Volume, open_labels, open_volume, open_volumes, warn_of_gaps
from sennet_kaggle.errors import InputError

GREY = np.random.default_rng(0).integers(0, 2**16, (37, 53), dtype=np.uint16)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint8])
@pytest.mark.parametrize("compression", [1, 8, 5], ids=["uncompressed", "deflate", "lzw"])
def test_values_are_exact(tmp_path, compression, dtype, channels):
    expected = GREY if dtype == np.uint16 else (GREY >> 8).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", np.repeat(expected[..., None], channels, 2).squeeze(), compression)
    slice_ = read_grey(tmp_path / "a.tif")
    assert slice_.dtype == dtype
    np.testing.assert_array_equal(slice_, expected)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_byte_orders(tmp_path, byteorder):
    tifffile.imwrite(tmp_path / "a.tif", GREY, byteorder=byteorder, photometric="minisblack")
    slice_ = read_grey(tmp_path / "a.tif")
    np.testing.assert_array_equal(slice_, GREY)


@pytest.mark.parametrize("one", [1, 255])
def test_labels_become_bool(tmp_path, one):
    write_tiff(tmp_path / "a.tif", (GREY > 60000).astype(np.uint8) * one)
    mask = read_mask(tmp_path / "a.tif")
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, GREY > 60000)


def test_volume_pairs_by_name_and_allows_unlabelled_slices(tmp_path, write_kidney):
    images, masks = write_kidney(tmp_path / "kidney_9", depth=4, first=7)
    (tmp_path / "kidney_9" / "labels" / "0008.tif").unlink()
    volume = open_volume(tmp_path / "kidney_9")
    assert volume.slice_ids == [f"kidney_9_{z:04d}" for z in (7, 8, 9, 10)]
    assert [volume.is_labelled(z) for z in range(4)] == [True, False, True, True]
    np.testing.assert_array_equal(volume.label(2), masks[2])
    np.testing.assert_array_equal(np.stack(list(volume)), images)
    assert volume.slice_size(0) == images[0].shape
    with pytest.raises(InputError, match="0008.tif has no label"):
        volume.label(1)


def test_dense_labels_take_the_sparse_images(tmp_path, write_kidney):
    images, masks = write_kidney(tmp_path / "kidney_3_sparse", depth=5)
    for z in (2, 3):
        write_tiff(tmp_path / "kidney_3_dense" / "labels" / f"{z:04d}.tif", masks[z].astype(np.uint8))
    volume = open_volume(tmp_path / "kidney_3_dense")
    assert volume.slice_ids == ["kidney_3_dense_0002", "kidney_3_dense_0003"]
    np.testing.assert_array_equal(volume[1], images[3])
    np.testing.assert_array_equal(volume.label(1), masks[3])


def test_opening_decodes_nothing(tmp_path):
    images_dir = tmp_path / "kidney_9" / "images"
    images_dir.mkdir(parents=True)
    (images_dir / "0000.tif").write_bytes(b"not a tiff")
    volume = open_volume(tmp_path / "kidney_9")
    with pytest.raises(InputError, match="0000.tif is not a TIFF"):
        volume[0]


def test_both_trees(tmp_path, write_kidney):
    write_kidney(tmp_path / "train" / "kidney_b")
    write_kidney(tmp_path / "train" / "kidney_a")
    write_kidney(tmp_path / "test" / "kidney_c", labels=False)
    assert [volume.name for volume in open_volumes(tmp_path, "train")] == ["kidney_a", "kidney_b"]
    assert [volume.name for volume in open_volumes(tmp_path, "train", ("kidney_b",))] == ["kidney_b"]
    assert [volume.name for volume in open_volumes(tmp_path, "test")] == ["kidney_c"]
    with pytest.raises(InputError, match="no kidney kidney_x: found kidney_a, kidney_b"):
        open_volumes(tmp_path, "train", ("kidney_x",))


def test_missing_folders_say_what_was_there(tmp_path):
    with pytest.raises(InputError, match="test is missing.*found no folder"):
        open_volumes(tmp_path / "nowhere", "test")
    (tmp_path / "something").mkdir()
    with pytest.raises(InputError, match="test is missing.*found something"):
        open_volumes(tmp_path, "test")
    with pytest.raises(InputError, match="images is missing"):
        open_volume(tmp_path / "something")


def test_folder_errors(tmp_path, write_kidney):
    write_kidney(tmp_path / "k", depth=2)
    (tmp_path / "k" / "images" / "0001.tif").unlink()
    with pytest.raises(InputError, match="1 labels without an image, the first 0001"):
        open_volume(tmp_path / "k")
    write_tiff(tmp_path / "k" / "images" / "0001.tiff", GREY)
    write_tiff(tmp_path / "k" / "images" / "0001.tif", GREY)
    with pytest.raises(InputError, match="two slices of the name 0001"):
        open_volume(tmp_path / "k")


def litter(folder: Path) -> None:
    """What systems, archives and notebooks leave in a folder of slices, or of kidneys."""
    for name in ("._0000.tif", ".hidden.tif", ".DS_Store", "Thumbs.db"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".hidden", "0009.tif"):
        for part in ("images", "labels"):
            write_tiff(folder / name / part / "0000.tif", GREY)


def test_hidden_files_and_folders_are_no_slices(tmp_path, write_kidney):
    write_kidney(tmp_path / "train" / "k")
    for part in ("images", "labels"):
        litter(tmp_path / "train" / "k" / part)
    (volume,) = open_volumes(tmp_path, "train")
    assert volume.slice_ids == ["k_0000", "k_0001", "k_0002"]
    assert list(open_labels(tmp_path)) == volume.slice_ids


def test_hidden_folders_are_no_kidneys(tmp_path, write_kidney):
    write_kidney(tmp_path / "train" / "k")
    litter(tmp_path / "train")
    shutil.rmtree(tmp_path / "train" / "0009.tif")
    assert [volume.name for volume in open_volumes(tmp_path, "train")] == ["k"]
    assert list(open_labels(tmp_path)) == ["k_0000", "k_0001", "k_0002"]


def test_a_folder_without_anything_of_a_kidney_is_left_out_with_a_warning(tmp_path, write_kidney, caplog):
    write_kidney(tmp_path / "test" / "k")
    (tmp_path / "test" / "notes" / "more").mkdir(parents=True)
    assert [volume.name for volume in open_volumes(tmp_path, "test")] == ["k"]
    assert "notes is left out: expected a kidney with images/*.tif in it, found more" in caplog.text
    with pytest.raises(InputError, match="notes/images is missing"):
        open_volumes(tmp_path, "test", ("notes",))
    write_tiff(tmp_path / "test" / "notes" / "more" / "0000.tif", GREY)
    with pytest.raises(InputError, match="notes/images is missing"):  # slices, but not where they belong
        open_volumes(tmp_path, "test")


def test_a_link_to_nowhere_is_a_slice_that_is_missing(tmp_path, write_kidney):
    write_kidney(tmp_path / "k")
    (tmp_path / "k" / "images" / "0003.tif").symlink_to("nowhere")
    with pytest.raises(InputError, match="0003.tif is missing"):
        open_volume(tmp_path / "k")[3]


def test_a_folder_that_may_not_be_read(tmp_path, write_kidney, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    write_kidney(tmp_path / "test" / "k")
    monkeypatch.setattr("sennet_kaggle.data.volume.os.scandir", refuse)
    with pytest.raises(InputError, match=r"test cannot be listed \(Permission denied\): check its permissions"):
        open_volumes(tmp_path, "test")


def test_numbers_in_names_sort_as_numbers(tmp_path, write_kidney):
    images, masks = write_kidney(tmp_path / "train" / "kidney_1", depth=12)
    for part in ("images", "labels"):
        for path in sorted((tmp_path / "train" / "kidney_1" / part).iterdir()):
            path.rename(path.with_stem(f"slice {int(path.stem)}"))
    (volume,) = open_volumes(tmp_path, "train")
    assert volume.slice_ids == [f"kidney_1_slice {z}" for z in range(12)]
    assert list(open_labels(tmp_path)) == volume.slice_ids
    np.testing.assert_array_equal(list(volume), images)
    np.testing.assert_array_equal([volume.label(z) for z in range(12)], masks)


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2", "10", "11", "100"],
        ["0000", "0001", "0009", "0010", "0100", "1000"],
        ["09", "9", "010", "10"],
        ["kidney_1_dense", "kidney_1_voi", "kidney_2", "kidney_3_dense", "kidney_3_sparse", "kidney_10"],
        ["", "1", "a", "a2b9", "a2b10", "a10b1", "b"],
        ["x" + "9" * 5000, "x1" + "0" * 5000],
    ],
)
def test_natural_order(names):
    assert sorted(sorted(names, reverse=True), key=natural_key) == names


@pytest.mark.parametrize(
    ("stems", "lengths"),
    [
        ([], []),
        (["7"], [1]),
        (["0000", "0001", "0002"], [3]),
        (["9", "10", "11"], [3]),
        (["0000", "0001", "0005", "0006", "0008"], [2, 2, 1]),
        (["slice_9", "slice_10", "part_11"], [2, 1]),
        (["z1_c0", "z2_c0", "z3_c1"], [2, 1]),
        (["0001", "left", "right"], [1, 1, 1]),
        (["09", "9"], [1, 1]),
        (["9" * 5000, "9" * 5000 + "1"], [1, 1]),
    ],
)
def test_consecutive_runs(stems, lengths):
    runs = consecutive_runs(stems)
    assert [len(run) for run in runs] == lengths and [stem for run in runs for stem in run] == stems


def test_gaps_are_named(tmp_path, caplog):
    paths = tuple(tmp_path / f"{z}.tif" for z in (0, 1, 3, 5, 7, 9))
    warn_of_gaps(Volume("k", paths[:2]), "a test")
    assert caplog.text == ""
    warn_of_gaps(Volume("k", paths), "a test")
    assert "not consecutive (between 1 and 3, 3 and 5, 5 and 7 and 1 more), but a test takes them" in caplog.text


def damaged(change):
    """A test slice as the competition's files are laid out, then changed."""

    def write(path):
        tifffile.imwrite(path, GREY, photometric="minisblack", compression="zlib")
        content = bytearray(path.read_bytes())
        path.write_bytes(change(content))

    return write


def enlarge(path):
    """A header that asks for more memory than a slice ever needs."""
    tifffile.imwrite(path, GREY, photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["ImageWidth"].overwrite(2**20)
        tiff.pages[0].tags["ImageLength"].overwrite(2**20)


def mistype(path):
    """A width of type BYTE."""
    write_tiff(path, GREY)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        offset = tiff.pages[0].tags["ImageWidth"].offset
    content = bytearray(path.read_bytes())
    content[offset + 2 : offset + 8] = b"\x01\x00\x02\x00\x00\x00"
    path.write_bytes(content)


def garble(content: bytearray) -> bytearray:
    content[600:900] = bytes(300)
    return content


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(damaged(lambda c: c[:-100]), "is truncated: expected .* bytes, found", id="cut at the end"),
        pytest.param(damaged(lambda c: c[: len(c) // 2]), "is truncated", id="cut in half"),
        pytest.param(damaged(lambda c: c[:60]), "is truncated|is not a TIFF", id="cut in the header"),
        pytest.param(damaged(lambda c: c[:0]), "is an empty file", id="empty"),
        pytest.param(damaged(garble), "cannot be decoded", id="pixels overwritten"),
        pytest.param(
            lambda p: write_tiff(p, GREY.astype(np.float32)),
            "expected 8- or 16-bit .* found 32-bit float32: scale it",
            id="float",
        ),
        pytest.param(
            lambda p: tifffile.imwrite(p, np.stack([GREY] * 3), photometric="minisblack"),
            "holds 3 images: expected one",
            id="stack",
        ),
        pytest.param(lambda p: write_tiff(p, np.stack([GREY, GREY, GREY + 1], 2)), "is coloured", id="colour"),
        pytest.param(lambda p: tifffile.imwrite(p, GREY, photometric="miniswhite"), "inverted", id="inverted"),
        pytest.param(enlarge, "claims to be 1048576x1048576, too large", id="terabytes"),
        pytest.param(mistype, "is truncated or damaged", id="width of two bytes"),
        pytest.param(lambda p: None, "a.tif is missing", id="missing"),
    ],
)
def test_bad_slices_are_one_line(tmp_path, write, message):
    write(tmp_path / "a.tif")
    with pytest.raises(InputError, match=message) as caught:
        read_grey(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)
    assert "a.tif" in str(caught.value)


def test_bad_labels(tmp_path, write_kidney):
    write_kidney(tmp_path / "k", size=(40, 31))
    write_tiff(tmp_path / "k" / "labels" / "0001.tif", np.zeros((40, 30), np.uint8))
    with pytest.raises(InputError, match="0001.tif is 40x30 but its image .* is 40x31"):
        open_volume(tmp_path / "k").label(1)
    write_tiff(tmp_path / "k" / "labels" / "0002.tif", np.arange(40 * 31, dtype=np.uint16).reshape(40, 31))
    with pytest.raises(InputError, match="is not a mask"):
        open_volume(tmp_path / "k").label(2)


def test_real_slices_keep_their_16_bits(data_dir):
    volume = open_volume(data_dir / "train" / "kidney_2")
    assert volume.slice_ids == ["kidney_2_0153", "kidney_2_0742"]
    slice_ = volume[1]
    np.testing.assert_array_equal(slice_, cv2.imread(str(volume.image_paths[1]), cv2.IMREAD_UNCHANGED))
    assert slice_.shape == (1041, 1511) and slice_.dtype == np.uint16
    assert len(np.unique(slice_)) > 8000  # cv2.imread's default leaves some forty grey levels
    assert volume.label(1).sum() == 6745
