"""Scans in other formats, for segment and report."""

import numpy as np

from . import Case

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


def _damaged_chunk(folder):
    _written("scan.zarr")(folder)
    (folder / "scan.zarr" / "0" / "c" / "0" / "0" / "0").write_bytes(b"no chunk at all")


def _cut(name):
    def cut(folder):
        _written(name)(folder)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 3])

    return cut


def _full_folder(folder):
    (folder / "out").mkdir()
    (folder / "out" / "precious.tif").write_text("precious")


def _empty_zarr(folder):
    (folder / "scan.zarr").mkdir()


def _both(folder):
    _written("scan.nii")(folder)
    _written("mask.nii", GREY[:2] > 9)(folder)


IMAGES = "data/test/kidney_5/images"
TITLE = "Scans of any format"
CASES: list[Case] = [
    Case("a folder of slices that says nothing of its voxels", SEGMENT(IMAGES, "m.npy"), "does not say", refused=False),
    Case("a scan that is not there", SEGMENT("scan.tif", "m.tif"), "scan.tif is missing: expected a folder of slices"),
    Case("a single slice as an array", SEGMENT("scan.npy", "m.npy"), "must have 3 axes, zyx", _save(GREY[0])),
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
    Case("an array that is cut short", SEGMENT("scan.npy", "m.npy"), "cannot be read", _cut("scan.npy")),
    Case("a NIfTI that is cut short", SEGMENT("scan.nii", "m.nii"), "is damaged at slice", _cut("scan.nii")),
    Case("a damaged chunk of an OME-Zarr", SEGMENT("scan.zarr", "m.zarr"), "is damaged at slice 0", _damaged_chunk),
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
    Case("a report of nothing", "report --scan scan.nii", "give --run-dir and --data-dir", _both),
    Case(
        "a report of a mask of another shape",
        "report --scan scan.nii --mask mask.nii",
        "both must be of one shape",
        _both,
    ),
]
