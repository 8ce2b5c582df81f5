"""Masks and settings for vessels."""

import re

import numpy as np
import tifffile

from . import Case, cut_short, damage_chunk

VESSELS = "vessels --mask {} --output-dir {}".format
MASK = np.zeros((12, 14, 16), np.uint8)
MASK[:, 5:8, 6:9] = 1
GREY = np.arange(MASK.size, dtype=np.uint16).reshape(MASK.shape)
TITLE = "From a mask to its vessels"


def _save(array, name="mask.npy"):
    return lambda folder: np.save(folder / name, array)


def _written(name, voxel_size_um=(50.0, 50.0, 50.0), mask=MASK):
    def write(folder):
        from sennet_kaggle.scans.writing import create_output

        with create_output(folder / name, mask.shape, bool, voxel_size_um) as put:
            for slice_ in mask:
                put(slice_ > 0)

    return write


def _damaged_slice(folder):
    _written("mask")(folder)
    path = folder / "mask" / "0004.tif"
    path.write_bytes(path.read_bytes()[:100])


def _scale(*scale):
    """A mask whose OME-Zarr names such a voxel size."""

    def write(folder):
        _written("mask.zarr")(folder)
        path = folder / "mask.zarr" / "zarr.json"
        text = path.read_text()
        sizes = ", ".join(map(str, scale))
        path.write_text(re.sub(r'"scale": \[[^\]]*\]', f'"scale": [{sizes}]', text))

    return write


def _with_results(folder):
    _save(MASK)(folder)
    (folder / "tree" / "segments.csv").mkdir(parents=True)


def _file_as_output(folder):
    _save(MASK)(folder)
    (folder / "tree").write_text("precious")


def _colour(folder):
    tifffile.imwrite(folder / "mask.tif", np.stack([255 * MASK] * 3, -1), photometric="rgb")


CASES: list[Case] = [
    Case("a mask that is not there", VESSELS("mask.tif", "tree"), "mask.tif is missing"),
    Case("a file of no known format", VESSELS("small.safetensors", "tree"), "is of no known format"),
    Case(
        "a single slice",
        VESSELS("mask.npy", "tree"),
        "must be a volume (D, H, W), found shape (14, 16)",
        _save(MASK[0]),
    ),
    Case(
        "a mask of four axes",
        VESSELS("mask.npy", "tree"),
        "must have 3 axes, zyx, found shape (2, 12, 14, 16)",
        _save(MASK[None].repeat(2, 0)),
    ),
    Case("complex numbers as a mask", VESSELS("mask.npy", "tree"), "found complex128", _save(MASK.astype(complex))),
    Case("texts as a mask", VESSELS("mask.npy", "tree"), "must hold grey values", _save(MASK.astype(str))),
    Case(
        "a mask without a vessel",
        VESSELS("mask.npy", "tree"),
        "must mark vessels, found 0 in every voxel",
        _save(MASK * 0),
    ),
    Case("a mask without background", VESSELS("mask.npy", "tree"), "must have background", _save(MASK * 0 + 1)),
    Case(
        "an inverted mask",
        VESSELS("mask.npy", "tree"),
        "the mask marks 96% of the volume as vessel",
        _save(1 - MASK),
        refused=False,
    ),
    Case(
        "a scan in place of a mask",
        VESSELS("mask.npy", "tree"),
        "is not a mask: expected 0 and one other value, found 1 and 2",
        _save(GREY),
    ),
    Case(
        "a probability in place of a mask",
        VESSELS("mask.npy", "tree"),
        "cut a probability or a scan at a threshold first",
        _save(MASK * np.float32(0.7) + 0.1),
    ),
    Case(
        "a mask with a value for what is not annotated",
        VESSELS("mask.npy", "tree"),
        "found 1 and 2",
        _save(MASK + (GREY % 5 == 0)),
    ),
    Case("NaN in a mask", VESSELS("mask.npy", "tree"), "found NaN at slice 0", _save(np.where(MASK, 1, np.nan))),
    Case("a coloured mask", VESSELS("mask.tif", "tree"), "found 3 along axis s", _colour),
    Case(
        "a mask that is cut short",
        VESSELS("mask.npy", "tree"),
        "mask.npy is truncated: its array is larger than its 938 bytes",
        cut_short(_written, "mask.npy"),
    ),
    Case(
        "a TIFF stack that is cut short",
        VESSELS("mask.tif", "tree"),
        "expected 12 images, found one",
        cut_short(_written, "mask.tif"),
    ),
    Case(
        "a NIfTI that is cut short",
        VESSELS("mask.nii", "tree"),
        "is truncated: expected 3040 bytes, found 1013",
        cut_short(_written, "mask.nii"),
    ),
    Case(
        "a packed NIfTI that is cut short",
        VESSELS("mask.nii.gz", "tree"),
        "mask.nii.gz cannot be read",
        cut_short(_written, "mask.nii.gz"),
    ),
    Case(
        "a damaged chunk of a label",
        VESSELS("mask.zarr", "tree"),
        "mask.zarr is damaged at slice 0",
        damage_chunk(_written, "mask.zarr"),
    ),
    Case(
        "a folder with a damaged slice",
        VESSELS("mask", "tree"),
        "mask/0004.tif is not a TIFF or is damaged",
        _damaged_slice,
    ),
    Case(
        "a voxel size of 0",
        VESSELS("mask.npy", "tree") + " --voxel-size-um 0",
        "must be a size in micrometres above 0",
        _save(MASK),
    ),
    Case(
        "a negative voxel size",
        VESSELS("mask.npy", "tree") + " --voxel-size-um 50 50 -50",
        "must be a size in micrometres above 0",
        _save(MASK),
    ),
    Case(
        "a voxel size that is not a number",
        VESSELS("mask.npy", "tree") + " --voxel-size-um nan",
        "must be a size in micrometres above 0",
        _save(MASK),
    ),
    Case(
        "an infinite voxel size",
        VESSELS("mask.npy", "tree") + " --voxel-size-um inf",
        "must be a size in micrometres above 0",
        _save(MASK),
    ),
    Case(
        "two voxel sizes",
        VESSELS("mask.npy", "tree") + " --voxel-size-um 50 50",
        "must be one number or three (z, y, x), got 2",
        _save(MASK),
    ),
    Case(
        "a file with a voxel size of NaN",
        VESSELS("mask.zarr", "tree"),
        "that is no size, so it is taken as not known",
        _scale("NaN", 50, 50),
        refused=False,
    ),
    Case(
        "a file with a voxel size of 0",
        VESSELS("mask.zarr", "tree"),
        "that is no size, so it is taken as not known",
        _scale(0, 0, 0),
        refused=False,
    ),
    Case(
        "a file with a voxel size that is a text",
        VESSELS("mask.zarr", "tree"),
        "has multiscales that cannot be read",
        _scale('"a"', 50, 50),
    ),
    Case("a level of an array", VESSELS("mask.npy", "tree") + " --level 1", "has no levels", _save(MASK)),
    Case(
        "an unknown level",
        VESSELS("mask.zarr", "tree") + " --level 7",
        "has no level 7: it has 0",
        _written("mask.zarr"),
    ),
    Case(
        "an unknown order of axes",
        VESSELS("mask.npy", "tree") + " --axis-order abc",
        "each of z, y and x once",
        _save(MASK),
    ),
    Case(
        "an output inside the mask's OME-Zarr",
        VESSELS("mask.zarr", "mask.zarr/tree"),
        "it lies in the mask or scan",
        _written("mask.zarr"),
    ),
    Case(
        "an output that is the mask's folder", VESSELS("mask", "mask"), "it lies in the mask or scan", _written("mask")
    ),
    Case(
        "an output inside the mask's folder",
        VESSELS("mask", "mask/tree"),
        "it lies in the mask or scan",
        _written("mask"),
    ),
    Case("an output that is the mask's file", VESSELS("mask.npy", "mask.npy"), "mask.npy is not a folder", _save(MASK)),
    Case("an output that is a file", VESSELS("mask.npy", "tree"), "tree is not a folder", _file_as_output),
    Case(
        "an output below a file, vessels",
        VESSELS("mask.npy", "small.safetensors/tree"),
        "small.safetensors is not a folder",
        _save(MASK),
    ),
    Case(
        "a folder in the place of a result",
        VESSELS("mask.npy", "tree"),
        "tree/segments.csv: it is a folder",
        _with_results,
    ),
    Case(
        "an output folder that cannot be written to, vessels",
        VESSELS("mask.npy", "/proc/tree"),
        "cannot write /proc/tree",
        _save(MASK),
    ),
]
