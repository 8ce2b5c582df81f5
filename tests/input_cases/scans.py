"""Scans in other formats, for segment and report."""

import shutil

import cv2
import numpy as np
import tifffile

from . import Case, cut_short, damage_chunk

SEGMENT = "segment --input {} --output {} --checkpoint small.safetensors --tta none".format
GREY = np.random.default_rng(0).integers(0, 2**16, (3, 40, 31), np.uint16)


def _save(array, name="scan.npy"):
    return lambda folder: np.save(folder / name, array)


def _written(name, array=GREY, voxel_size_um=(50.0, 50.0, 50.0)):
    def write(folder):
        from sennet_kaggle.scans.writing import create_output

        with create_output(folder / name, array.shape, array.dtype, voxel_size_um) as put:
            for slice_ in array:
                put(slice_)

    return write


def _full_folder(folder):
    (folder / "out").mkdir()
    (folder / "out" / "precious.tif").write_text("precious")


def _empty_zarr(folder):
    (folder / "scan.zarr").mkdir()


def _both(folder):
    _written("scan.nii")(folder)
    _written("mask.nii", GREY[:2] > 9)(folder)


def _folder(**slices):
    """A folder of slices, by name and suffix, such as a_tif."""

    def write(folder):
        (folder / "scan").mkdir()
        for name, slice_ in slices.items():
            path = folder / "scan" / name.replace("_", ".")
            if path.suffix == ".tif":
                tifffile.imwrite(path, slice_, photometric="rgb" if slice_.ndim == 3 else "minisblack")
            else:
                assert cv2.imwrite(str(path), slice_)

    return write


def _cut_in_folder(name, length):
    def cut(folder):
        _folder(**{f"{z}_{name[-3:]}": slice_ for z, slice_ in enumerate(GREY)})(folder)
        (folder / "scan" / name).write_bytes((folder / "scan" / name).read_bytes()[:length])

    return cut


def _image(array=GREY, axes="zyx", scale=50.0, chunks=None, change=None):
    """An OME-Zarr image with these axes, and what is then done to its folder."""

    def write(folder):
        import zarr

        group = zarr.create_group(folder / "scan.zarr")
        group.create_array("0", data=array, chunks=chunks or array.shape)
        units = [{"unit": "micrometer"} if name in "zyx" else {} for name in axes]
        named = [{"name": name, **unit} for name, unit in zip(axes, units, strict=True)]
        scales = [{"type": "scale", "scale": list(np.broadcast_to(scale, len(axes)).astype(float))}]
        datasets = [{"path": "0", "coordinateTransformations": scales}]
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": named, "datasets": datasets}]}
        if change:
            change(folder / "scan.zarr")

    return write


def _pages(*slices):
    def write(folder):
        with tifffile.TiffWriter(folder / "scan.tif") as tiff:
            for slice_ in slices:
                tiff.write(slice_)

    return write


def _stack(array, **settings):
    return lambda folder: tifffile.imwrite(folder / "scan.tif", array, **settings)


def _text(name):
    return lambda folder: (folder / name).write_text("no scan at all")


def _objects(folder):
    np.save(folder / "scan.npy", np.array([None, 1]), allow_pickle=True)


FLOAT = GREY.astype(np.float32)
COLOUR = np.random.default_rng(0).integers(0, 255, (40, 31, 3), np.uint8)
SHIPPED = "segment --input {} --output {} --tta none".format
IMAGES = "data/test/kidney_5/images"
TITLE = "Scans of any format"
CASES: list[Case] = [
    Case("a folder of slices that says nothing of its voxels", SEGMENT(IMAGES, "m.npy"), "does not say", refused=False),
    Case("a scan that is not there", SEGMENT("scan.tif", "m.tif"), "scan.tif is missing: expected a folder of slices"),
    Case("a single slice as an array", SEGMENT("scan.npy", "m.npy"), "must be a volume (D, H, W)", _save(GREY[0])),
    Case("four axes", SEGMENT("scan.npy", "m.npy"), "found shape (2, 3, 40, 31)", _save(np.stack([GREY, GREY]))),
    Case("a mask in place of a scan", SEGMENT("scan.npy", "m.npy"), "it is a mask, so name the scan", _save(GREY > 9)),
    Case("complex numbers", SEGMENT("scan.npy", "m.npy"), "found complex128", _save(GREY.astype(complex))),
    Case(
        "floating-point numbers",
        SEGMENT("scan.npy", "m.npy"),
        "0 becomes 0 and 1 becomes 65535",
        _save(GREY / 65535),
        refused=False,
    ),
    Case(
        "an order of axes that is none",
        SEGMENT("scan.npy", "m.npy") + " --axis-order zxx",
        "each of z, y and x once",
        _save(GREY),
    ),
    Case("an array that is cut short", SEGMENT("scan.npy", "m.npy"), "is truncated", cut_short(_written, "scan.npy")),
    Case(
        "a NIfTI that is cut short",
        SEGMENT("scan.nii", "m.nii"),
        "is truncated: expected",
        cut_short(_written, "scan.nii"),
    ),
    Case(
        "a damaged chunk of an OME-Zarr",
        SEGMENT("scan.zarr", "m.zarr"),
        "is damaged at slice 0",
        damage_chunk(_written, "scan.zarr"),
    ),
    Case("a folder that is called .zarr", SEGMENT("scan.zarr", "m.zarr"), "is not a Zarr group", _empty_zarr),
    Case(
        "a level that is not there",
        SEGMENT("scan.zarr", "m.zarr") + " --level 5",
        "has no level 5: it has 0",
        _written("scan.zarr"),
    ),
    Case("a level of something without", SEGMENT(IMAGES, "m.npy") + " --level 0", "has no levels, only OME-Zarr has"),
    Case(
        "a checkpoint that does not name its voxel size",
        SEGMENT("scan.tif", "m.tif"),
        "does not say at which voxel size it was trained",
        _written("scan.tif", GREY, (50.0, 50.0, 60.0)),
        refused=False,
    ),
    Case("a voxel size below 0", SEGMENT(IMAGES, "m.npy") + " --voxel-size-um -5", "must be a size in micrometres"),
    Case("an output of an unknown kind", SEGMENT(IMAGES, "m.csv"), "expected the suffix .tif, .npy"),
    Case(
        "an output folder that has files in it", SEGMENT(IMAGES, "out"), "must be new or an empty folder", _full_folder
    ),
    Case("an output in a folder that is not there", SEGMENT(IMAGES, "none/m.npy"), "there is no folder none"),
    Case("an output that is the input", SEGMENT("scan.npy", "scan.npy"), "it is the input", _save(GREY)),
    Case("blocks of another format", SEGMENT(IMAGES, "m.npy") + " --workers 2", "the output must be a .zarr"),
    Case("blocks along three axes", SEGMENT(IMAGES, "m.zarr") + " --workers 2 --axes zyx", "axes must be z, got zyx"),
    Case(
        "two channels", SEGMENT("scan.zarr", "m.zarr"), "found 2 along axis c", _image(np.stack([GREY, GREY]), "czyx")
    ),
    Case(
        "two points in time",
        SEGMENT("scan.zarr", "m.zarr"),
        "found 2 along axis t",
        _image(np.stack([GREY[None], GREY[None]]), "tczyx"),
    ),
    Case("axes of other names", SEGMENT("scan.zarr", "m.zarr"), "found abc: name its axes", _image(axes="abc")),
    Case(
        "an OME-Zarr of one slice", SEGMENT("scan.zarr", "m.zarr"), "must be a volume (D, H, W)", _image(GREY[0], "yx")
    ),
    Case(
        "a level whose folder is missing",
        SEGMENT("scan.zarr", "m.zarr"),
        "names a level 0 that is not there",
        _image(change=lambda path: shutil.rmtree(path / "0")),
    ),
    Case(
        "a chunk that is missing",
        SEGMENT("scan.zarr", "m.zarr"),
        "has no file for 1 of its 3 chunks",
        _image(chunks=(1, 40, 31), change=lambda path: (path / "0" / "c" / "1" / "0" / "0").unlink()),
        refused=False,
    ),
    Case(
        "a chunk that is cut short",
        SEGMENT("scan.zarr", "m.zarr"),
        "is damaged at slice 1",
        _image(
            chunks=(1, 40, 31),
            change=lambda path: (path / "0" / "c" / "1" / "0" / "0").write_bytes(b"\x28\xb5\x2f\xfd"),
        ),
    ),
    Case(
        "an OME-Zarr whose metadata are cut short",
        SEGMENT("scan.zarr", "m.zarr"),
        "is not a Zarr group or array",
        _image(change=lambda path: (path / "zarr.json").write_text("{")),
    ),
    Case(
        "voxels of 0 micrometres in the file",
        SEGMENT("scan.zarr", "m.zarr"),
        "that is no size, so it is taken as not known",
        _image(scale=0),
        refused=False,
    ),
    Case(
        "voxels that are no squares", SHIPPED("scan.zarr", "m.zarr"), "squares in the slice", _image(scale=(50, 50, 25))
    ),
    Case(
        "voxels that are no cubes, along three axes",
        SHIPPED("scan.zarr", "m.zarr") + " --axes zyx",
        "axes zyx needs cubes",
        _image(scale=(25, 50, 50)),
    ),
    Case("voxels of 1 micrometre", SHIPPED("scan.zarr", "m.zarr"), "within a factor of 10 of the 50", _image(scale=1)),
    Case("slices of two sizes", SEGMENT("scan", "m.npy"), "must be alike", _folder(a_tif=GREY[0], b_tif=GREY[1][1:])),
    Case(
        "slices of 8 and of 16 bits",
        SEGMENT("scan", "m.npy"),
        "must be alike",
        _folder(a_png=GREY[0], b_png=GREY[1].astype(np.uint8)),
    ),
    Case("slices of two kinds", SEGMENT("scan", "m.npy"), "several kinds", _folder(a_tif=GREY[0], b_png=GREY[1])),
    Case("coloured TIFFs", SEGMENT("scan", "m.npy"), "is coloured", _folder(a_tif=COLOUR, b_tif=COLOUR)),
    Case("coloured PNGs", SEGMENT("scan", "m.npy"), "is coloured", _folder(a_png=COLOUR, b_png=COLOUR)),
    Case(
        "a coloured stack",
        SEGMENT("scan.tif", "m.tif"),
        "along axis s",
        _stack(np.stack([COLOUR] * 5), photometric="rgb"),
    ),
    Case(
        "a folder without slices",
        SEGMENT("scan", "m.npy"),
        "has no slices",
        lambda folder: (folder / "scan").mkdir(),
    ),
    Case("a TIFF slice that is cut short", SEGMENT("scan", "m.npy"), "is truncated", _cut_in_folder("1.tif", 1000)),
    Case("a PNG slice that is cut short", SEGMENT("scan", "m.npy"), "is damaged", _cut_in_folder("1.png", 1000)),
    Case("a slice without content", SEGMENT("scan", "m.npy"), "is an empty file", _cut_in_folder("1.tif", 0)),
    Case("a stack of one slice", SEGMENT("scan.tif", "m.tif"), "is one slice: expected a stack", _stack(GREY[0])),
    Case("pages of two sizes", SEGMENT("scan.tif", "m.tif"), "pages of one size", _pages(GREY[0], GREY[1][1:])),
    Case(
        "a stack that is cut short",
        SEGMENT("scan.tif", "m.tif"),
        "expected 3 images, found one",
        cut_short(_written, "scan.tif"),
    ),
    Case(
        "a text that is called .npy", SEGMENT("scan.npy", "m.npy"), "not an array that numpy saved", _text("scan.npy")
    ),
    Case("Python objects", SEGMENT("scan.npy", "m.npy"), "found Python objects", _objects),
    Case("an array without voxels", SEGMENT("scan.npy", "m.npy"), "at least one voxel", _save(GREY[:0])),
    Case("a file of no known kind", SEGMENT("scan.h5", "m.npy"), "is of no known format", _text("scan.h5")),
    Case(
        "floating-point numbers with NaN",
        SEGMENT("scan.npy", "m.npy"),
        "NaN or infinite: NaN is taken for",
        _save(np.where(FLOAT < 999, np.nan, FLOAT)),
        refused=False,
    ),
    Case(
        "integers below 0",
        SEGMENT("scan.npy", "m.npy"),
        "becomes 65535, and what lies beyond is cut",
        _save((FLOAT - 32768).astype(np.int16)),
        refused=False,
    ),
    Case(
        "an output among the slices of the input", SEGMENT(IMAGES, f"{IMAGES}/m.tif"), "among the slices of the input"
    ),
    Case("an output folder that is the input", SEGMENT(IMAGES, IMAGES), "it is the input"),
    Case(
        "an output in an image, but not its labels",
        SEGMENT("scan.zarr", "scan.zarr/m"),
        "must be IMAGE.zarr/labels/NAME",
        _image(),
    ),
    Case("an output that cannot be written", SEGMENT(IMAGES, "/proc/m.zarr"), "cannot write /proc/m.zarr"),
    Case(
        "a scheduler that is no address", SEGMENT(IMAGES, "m.zarr") + " --scheduler here", "no Dask scheduler answers"
    ),
    Case("a report of nothing", "report --scan scan.nii", "give --run-dir and --data-dir", _both),
    Case(
        "a report of a mask of another shape",
        "report --scan scan.nii --mask mask.nii",
        "both must be of one shape",
        _both,
    ),
]
