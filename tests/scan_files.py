"""Scans in every format, for the tests of what reads and writes them."""

import numpy as np
import zarr

from sennet_kaggle.scans.writing import create_output

SIZE_UM = (25.0, 50.0, 51.0)
NAMES = ("folder", "scan.tif", "scan.npy", "scan.nii", "scan.nii.gz", "scan.ome.zarr")


def write(path, array, voxel_size_um=SIZE_UM, like=None):
    with create_output(path, array.shape, array.dtype, voxel_size_um, like) as put:
        for slice_ in array:
            put(slice_)
    return path


def read(scan) -> np.ndarray:
    return np.stack([*scan])


def make_image(path, array, zarr_format, levels=1, unit="micrometer", axes="czyx"):
    group = zarr.create_group(path, zarr_format=zarr_format)
    datasets = []
    for level in range(levels):
        names = [*axes] if zarr_format == 3 else None
        group.create_array(str(level), data=array[None][..., :: 2**level, :: 2**level], dimension_names=names)
        scale = [1.0, 25.0, 50.0 * 2**level, 51.0 * 2**level]
        moves = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(level), "coordinateTransformations": moves})
    named = [{"name": name, "type": "channel" if name == "c" else "space"} for name in axes]
    named = [axis | ({"unit": unit} if axis["type"] == "space" and unit else {}) for axis in named]
    fields = {"multiscales": [{"axes": named, "datasets": datasets, "version": "0.4"}]}
    group.attrs.update(fields if zarr_format == 2 else {"ome": {"version": "0.5", **fields}})
