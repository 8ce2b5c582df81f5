"""Scans and masks in every format: written, opened again here and by the format's own library, or refused in a line."""

import gzip
import json

import cv2
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from scan_files import NAMES, SIZE_UM, make_image, read, write

from sennet_kaggle.errors import InputError
from sennet_kaggle.scans.opening import open_mask, open_scan
from sennet_kaggle.scans.writing import create_output

GREY = np.random.default_rng(0).integers(0, 2**16, (5, 9, 7), np.uint16)
MASK = GREY % 3 == 0


def opened_by_its_library(path) -> np.ndarray:
    """(D, H, W), as whoever else reads the format has it."""
    if path.is_dir() and path.suffix != ".zarr":
        return np.stack([tifffile.imread(each) for each in sorted(path.iterdir())])
    if path.suffix == ".zarr":
        return zarr.open_group(path, mode="r")["0"][:]
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    return tifffile.imread(path) if path.suffix == ".tif" else np.asarray(nibabel.load(path).dataobj).T


@pytest.mark.parametrize("voxel_size_um", [SIZE_UM, None], ids=["size", "no size"])
@pytest.mark.parametrize("array", [GREY, (GREY >> 8).astype(np.uint8), MASK], ids=["uint16", "uint8", "bool"])
@pytest.mark.parametrize("name", NAMES)
def test_a_round_trip_keeps_values_and_voxel_size(tmp_path, name, array, voxel_size_um):
    path = write(tmp_path / name, array, voxel_size_um)
    assert [each.name for each in tmp_path.iterdir()] == [name]
    scan = open_mask(path) if array.dtype == np.bool_ else open_scan(path)
    assert (scan.shape, scan.dtype, len(scan)) == (array.shape, array.dtype, len(array))
    np.testing.assert_array_equal(read(scan), array)
    np.testing.assert_array_equal(scan[3], array[3])  # not in order
    assert scan.voxel_size_um == (None if name == "scan.npy" else voxel_size_um)
    vessel = 255 if array.dtype == np.bool_ and name in ("folder", "scan.tif") else 1
    np.testing.assert_array_equal(opened_by_its_library(path), array * vessel if array.dtype == np.bool_ else array)


def test_other_libraries_find_the_voxel_size(tmp_path):
    with tifffile.TiffFile(write(tmp_path / "scan.tif", GREY)) as tiff:
        assert tiff.is_bigtiff and tiff.series[0].axes == "ZYX"
        assert (tiff.imagej_metadata["spacing"], tiff.imagej_metadata["unit"]) == (25.0, "um")
        above, below = tiff.pages[0].tags.valueof("YResolution")
        assert below / above == pytest.approx(50)
    image = nibabel.load(write(tmp_path / "scan.nii", GREY))
    np.testing.assert_allclose(image.header.get_zooms(), (0.051, 0.05, 0.025), rtol=1e-6)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(np.diag(image.affine), (0.051, 0.05, 0.025, 1), rtol=1e-6)
    ome = zarr.open_group(write(tmp_path / "scan.zarr", GREY), mode="r").attrs["ome"]
    assert ome["multiscales"][0]["axes"][0] == {"name": "z", "type": "space", "unit": "micrometer"}
    moves = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert moves == [{"type": "scale", "scale": [*SIZE_UM]}]


def test_the_pyramid_shows_thin_vessels_where_they_are(tmp_path):
    """A line of one voxel, at y = 301, is in row 150 of the next level, whose middle is 0.5 voxels further."""
    mask = np.zeros((3, 600, 40), bool)
    mask[:, 301] = True
    group = zarr.open_group(write(tmp_path / "m.zarr", mask, (50.0, 50.0, 50.0)), mode="r")
    assert [group[str(level)].shape for level in range(3)] == [(3, 600, 40), (2, 300, 20), (1, 150, 10)]
    np.testing.assert_array_equal(np.unique(np.nonzero(group["1"][:])[1]), [150])
    np.testing.assert_array_equal(np.unique(np.nonzero(group["2"][:])[1]), [75])
    moves = group.attrs["ome"]["multiscales"][0]["datasets"][2]["coordinateTransformations"]
    assert [move[move["type"]] for move in moves] == [[200.0, 200.0, 200.0], [75.0, 75.0, 75.0]]


@pytest.mark.parametrize("version", [2, 3])
def test_a_label_joins_its_image(tmp_path, version):
    image_path = tmp_path / "image.zarr"
    make_image(image_path, GREY, version)
    scan = open_scan(image_path)
    assert scan.voxel_size_um == SIZE_UM
    for name in ("vessels", "again"):
        write(image_path / "labels" / name, MASK, scan.voxel_size_um, scan)
    labels = zarr.open_group(image_path / "labels", mode="r")
    listed = labels.attrs["labels"] if version == 2 else labels.attrs["ome"]["labels"]
    assert listed == ["vessels", "again"]
    assert labels["vessels"]["0"].shape == (1, 5, 9, 7)  # the image's channel, one long
    label = open_mask(image_path / "labels" / "vessels")
    np.testing.assert_array_equal(read(label), MASK)
    assert label.voxel_size_um == SIZE_UM
    np.testing.assert_array_equal(read(open_scan(image_path)), GREY)
    with pytest.raises(InputError, match="must be IMAGE.zarr/labels/NAME"):
        write(image_path / "vessels", MASK)


@pytest.mark.parametrize(("level", "shapes"), [(None, [(5, 9, 7), (5, 5, 4)]), (1, [(5, 5, 4), (3, 3, 2)])])
def test_a_label_has_the_levels_of_its_image(tmp_path, level, shapes):
    """The image is halved in its planes alone; what is made of its second level goes on by halving."""
    make_image(tmp_path / "i.zarr", GREY, 3, levels=2)
    scan = open_scan(tmp_path / "i.zarr", level)
    mask = np.zeros(scan.shape, bool)
    mask[2, 3, 2] = True
    write(tmp_path / "i.zarr" / "labels" / "m", mask, scan.voxel_size_um, scan)
    label = zarr.open_group(tmp_path / "i.zarr" / "labels" / "m", mode="r")
    assert [label[str(each)].shape[1:] for each in range(len(list(label.array_keys())))] == shapes
    place = (0, 2, 1, 1) if level is None else (0, 1, 1, 1)
    np.testing.assert_array_equal(np.argwhere(label["1"][:]), [place])
    size = open_mask(tmp_path / "i.zarr" / "labels" / "m", 1).voxel_size_um
    assert size == ((25.0, 100.0, 102.0) if level is None else (50.0, 200.0, 204.0))


def test_a_level_is_named(tmp_path):
    make_image(tmp_path / "i.zarr", GREY, 3, levels=2)
    for level in ("1", 1):
        scan = open_scan(tmp_path / "i.zarr", level)
        np.testing.assert_array_equal(read(scan), GREY[:, ::2, ::2])
        assert scan.voxel_size_um == (25.0, 100.0, 102.0)
    assert open_scan(tmp_path / "i.zarr" / "1").voxel_size_um == (25.0, 100.0, 102.0)
    with pytest.raises(InputError, match="has no level 7: it has 0, 1"):
        open_scan(tmp_path / "i.zarr", 7)
    np.save(tmp_path / "a.npy", GREY)
    with pytest.raises(InputError, match="has no levels, only OME-Zarr has"):
        open_scan(tmp_path / "a.npy", 0)


def test_slabs_of_chunks_are_read_in_order_and_out_of_it(tmp_path):
    array = np.arange(7 * 4 * 3, dtype=np.uint16).reshape(7, 4, 3)
    zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(3, 2, 2))
    scan = open_scan(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read(scan), array)
    for z in (6, 0, 1, 2, 5, 4, 3, 4, 5, 6):
        np.testing.assert_array_equal(scan[z], array[z])


@pytest.mark.parametrize("axes", ["zyx", "xyz", "yzx"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_axes_in_another_order(tmp_path, axes, order):
    """The slices are (y, x) whatever the order; the mask is written in that of the input."""
    moved = GREY.transpose(["zyx".index(name) for name in axes])
    np.save(tmp_path / "a.npy", np.asarray(moved, order=order))
    scan = open_scan(tmp_path / "a.npy", axes=axes)
    assert scan.axes == axes
    np.testing.assert_array_equal(read(scan), GREY)
    mask = np.load(write(tmp_path / "mask.npy", MASK, like=scan))
    np.testing.assert_array_equal(mask, MASK.transpose(["zyx".index(name) for name in axes]))


def test_nifti_keeps_its_place_in_space(tmp_path):
    affine = np.diag([-0.05, 0.05, 0.025, 1.0])
    affine[:3, 3] = 10, -20, 30
    image = nibabel.Nifti1Image(GREY.T, affine, dtype=np.uint16)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "i.nii.gz")
    scan = open_scan(tmp_path / "i.nii.gz")
    assert scan.voxel_size_um == (25, 50, 50) and scan.axes == "xyz"
    mask = nibabel.load(write(tmp_path / "m.nii.gz", MASK, scan.voxel_size_um, scan))
    np.testing.assert_allclose(mask.affine, affine, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(mask.dataobj).T, MASK)


@pytest.mark.parametrize("suffix", [".png", ".jp2", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_folders_of_slices(tmp_path, suffix, dtype):
    array = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (3, 40, 33)).astype(dtype)
    (tmp_path / "k").mkdir()
    for z, slice_ in zip((9, 10, 101), array, strict=True):
        lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000] if suffix == ".jp2" else []
        assert cv2.imwrite(str(tmp_path / "k" / f"s{z}{suffix}"), slice_, lossless)
    scan = open_scan(tmp_path / "k")
    assert scan.dtype == dtype and scan.slice_ids == ["k_s9", "k_s10", "k_s101"]
    np.testing.assert_array_equal(read(scan), array)
    written = write(tmp_path / "mask", MASK[:3], like=scan)
    assert sorted(each.stem for each in written.iterdir()) == ["s10", "s101", "s9"]


@pytest.mark.parametrize("kind", ["imagej", "ome", "deflate", "pages"])
def test_stacks_of_others(tmp_path, kind):
    path = tmp_path / "s.tif"
    size = {"PhysicalSizeX": 0.051, "PhysicalSizeY": 0.05, "PhysicalSizeZ": 0.025}
    units = {f"PhysicalSize{name}Unit": "mm" for name in "XYZ"}
    if kind == "imagej":
        form = {"spacing": 0.025, "unit": "mm", "axes": "ZYX"}
        tifffile.imwrite(path, GREY, imagej=True, resolution=(1 / 0.051, 1 / 0.05), metadata=form)
    elif kind == "ome":
        tifffile.imwrite(path, GREY, ome=True, metadata={"axes": "ZYX", **size, **units})
    elif kind == "deflate":
        tifffile.imwrite(path, GREY, compression="zlib")
    else:
        assert cv2.imwritemulti(str(path), [*GREY], [cv2.IMWRITE_TIFF_COMPRESSION, 8])
    scan = open_scan(path)
    np.testing.assert_array_equal(read(scan), GREY)
    expected = SIZE_UM if kind in ("imagej", "ome") else None
    assert scan.voxel_size_um == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        (np.float32([0, 0.5, 1]), [0, 32768, 65535], "0 becomes 0 and 1 becomes 65535"),
        (np.float64([-1, 0, 3]), [0, 16384, 65535], "-1 becomes 0 and 3 becomes 65535"),
        (np.int16([0, 7, 900]), [0, 7, 900], "0 becomes 0 and 65535 becomes 65535"),
        (np.float32([0, np.nan, 1]), [0, 0, 65535], "float32 values, 0 to 1"),
    ],
)
def test_other_numbers_are_scaled_and_it_is_said(tmp_path, caplog, values, expected, said):
    np.save(tmp_path / "a.npy", np.broadcast_to(values, (2, 4, 3)))
    scan = open_scan(tmp_path / "a.npy")
    assert scan.dtype == np.uint16
    np.testing.assert_array_equal(scan[1][0], expected)
    assert said in caplog.text


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: p / "none", "is missing: expected a folder of slices"),
        (lambda p: save(p, GREY[0]), r"must be a volume \(D, H, W\), found shape \(9, 7\)"),
        (lambda p: save(p, GREY[None]), r"must have 3 axes, zyx, found shape \(1, 5, 9, 7\)"),
        (lambda p: save(p, GREY[:0]), "at least one voxel"),
        (lambda p: save(p, GREY.astype(complex)), "integers or floating point, found complex128"),
        (lambda p: save(p, np.array([{}])), "must hold grey values, found Python objects"),
        (lambda p: text(p / "a.npy"), "is not an array that numpy saved"),
        (lambda p: text(p / "a.nii"), "cannot be read"),
        (lambda p: text(p / "a.tif"), "cannot be read"),
        (lambda p: text(p / "a.csv"), "is of no known format: expected a folder"),
        (lambda p: text(p / "a.png"), "is one slice: name the folder of slices"),
        (lambda p: cut(write(p / "a.tif", GREY)), "is truncated"),
        (lambda p: cut(write(p / "a.npy", GREY)), "is truncated: its array is larger than its 252 bytes"),
        (lambda p: folder(p), "has no slices"),
        (lambda p: folder(p, **{"0.tif": GREY[0], "1.tif": GREY[1, :5]}), r"1.tif is uint16 \(5, 7\) but 0.tif is"),
        (lambda p: folder(p, **{"0.tif": GREY[0], "1.png": GREY[1]}), "slices of several kinds, .tif and .png"),
        (lambda p: folder(p, **{"0.png": np.zeros((4, 4, 3), np.uint8) + np.uint8([1, 2, 3])}), "is coloured"),
        (lambda p: folder(p, **{"a.zarr": None}) / "a.zarr", "is not a Zarr group or array"),
        (lambda p: group(p), "is not an OME-Zarr image: .* it has child in it"),
    ],
)
def test_what_is_refused_when_it_is_opened(tmp_path, prepare, message):
    with pytest.raises(InputError, match=message) as error:
        open_scan(prepare(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.ome.zarr", "folder"])
def test_damage_is_found_when_the_slice_is_read(tmp_path, name):
    path = write(tmp_path / name, GREY)
    if name == "scan.ome.zarr":
        chunk = next(each for each in (path / "0").rglob("*") if each.is_file() and each.name != "zarr.json")
        chunk.write_bytes(b"no chunk at all" * 3)
    elif name == "folder":
        (path / "0003.tif").write_bytes((path / "0003.tif").read_bytes()[:-40])
    else:
        cut(path)
    with pytest.raises(InputError, match="damaged|truncated|cannot be read|cannot be decoded") as error:
        read(open_scan(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_damaged_is_said_in_a_line(tmp_path, name):
    """Bytes are changed or cut off at random; what then comes out is a scan or an InputError."""
    path, rng, refused = write(tmp_path / name, GREY), np.random.default_rng(0), 0
    files = [each for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file()]
    for _ in range(30):
        damaged = files[rng.integers(len(files))]
        whole = damaged.read_bytes()
        content = bytearray(whole)
        for at in rng.integers(min(len(content), 400), size=rng.integers(1, 4)):
            content[at] = rng.integers(256)
        damaged.write_bytes(content[: rng.integers(len(content))] if rng.random() < 0.3 else content)
        try:
            read(open_scan(path))
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
        damaged.write_bytes(whole)
    assert refused > 3
    np.testing.assert_array_equal(read(open_scan(path)), GREY)


@pytest.mark.parametrize("name", NAMES)
def test_an_output_is_whole_or_not_there(tmp_path, name):
    def write_two(path):
        with create_output(path, MASK.shape, bool, SIZE_UM) as put:
            put(MASK[0])
            put(MASK[1])

    with pytest.raises(InputError, match="must have 5 slices, got 2"):
        write_two(tmp_path / name)
    with pytest.raises(KeyboardInterrupt), create_output(tmp_path / name, MASK.shape, bool, SIZE_UM):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["folder", "a.zarr"])
def test_what_stands_there_stays(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious").write_text("1")
    with pytest.raises(InputError, match="must be new or an empty folder, found files"):
        write(tmp_path / name, MASK)
    assert (tmp_path / name / "precious").read_text() == "1"


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="expected the suffix .tif, .npy"):
        write(tmp_path / "a.csv", MASK)
    with pytest.raises(InputError, match="there is no folder"):
        write(tmp_path / "none" / "a.npy", MASK)
    scan = open_scan(write(tmp_path / "a.npy", GREY))
    with pytest.raises(InputError, match="it is the input"):
        write(tmp_path / "a.npy", MASK, like=scan)


def test_axes_and_sizes_of_the_caller(tmp_path):
    path = write(tmp_path / "a.npy", GREY)
    assert open_scan(path, voxel_size_um=10).voxel_size_um == (10, 10, 10)
    for axes in ("zy", "zzyx", "abc", "zyxx"):
        with pytest.raises(InputError, match="axes must have each of z, y and x once"):
            open_scan(path, axes=axes)
    for size in (0, -1.0, float("nan"), (1.0, 2.0)):
        with pytest.raises(InputError, match="voxel_size_um must be"):
            open_scan(path, voxel_size_um=size)


def save(folder, array):
    np.save(folder / "a.npy", array)
    return folder / "a.npy"


def text(path):
    path.write_text("a,b\n")
    return path


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    return path


def folder(parent, **slices):
    for name, slice_ in slices.items():
        if slice_ is None:
            (parent / name).mkdir()
        else:
            assert cv2.imwrite(str(parent / name), slice_)
    return parent


def group(parent):
    zarr.create_group(parent / "a.zarr").create_group("child")
    return parent / "a.zarr"


def test_a_compressed_nifti_has_no_time_in_it(tmp_path):
    """The same mask gives the same bytes."""
    first = write(tmp_path / "a.nii.gz", MASK).read_bytes()
    assert write(tmp_path / "b.nii.gz", MASK).read_bytes() == first
    assert len(gzip.decompress(first)) == 352 + MASK.size


def test_units_that_are_missing_are_said(tmp_path, caplog):
    make_image(tmp_path / "i.zarr", GREY, 2, unit=None)
    assert open_scan(tmp_path / "i.zarr").voxel_size_um is None
    assert "without a unit of length (None)" in caplog.text
    fields = json.loads((tmp_path / "i.zarr" / ".zattrs").read_bytes())
    assert "unit" not in fields["multiscales"][0]["axes"][1]
