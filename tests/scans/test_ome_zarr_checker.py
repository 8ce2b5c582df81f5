"""What we write as OME-Zarr, by the format's own reader and checker, where they are installed.

They need an older pydantic than other packages here, so they are not among the developers' packages:
pip install ome-zarr, in an environment of its own.
"""

import numpy as np
import pytest
import zarr
from scan_files import SIZE_UM, make_image, write

from sennet_kaggle.scans.opening import open_scan

io = pytest.importorskip("ome_zarr.io")
reader = pytest.importorskip("ome_zarr.reader")
models = pytest.importorskip("ome_zarr_models")
GREY = np.random.default_rng(0).integers(0, 2**16, (5, 300, 270), np.uint16)
MASK = GREY % 3 == 0


def nodes(path):
    return [*reader.Reader(io.parse_url(path))()]


@pytest.mark.parametrize("voxel_size_um", [SIZE_UM, None])
@pytest.mark.parametrize("array", [GREY, MASK], ids=["image", "label"])
def test_a_group_of_its_own(tmp_path, array, voxel_size_um):
    path = write(tmp_path / "a.zarr", array, voxel_size_um)
    (node,) = nodes(path)
    assert [level.shape for level in node.data] == [(5, 300, 270), (3, 150, 135)]
    np.testing.assert_array_equal(np.asarray(node.data[0]), array)
    kind = type(models.open_ome_zarr(zarr.open_group(path, mode="r"))).__name__
    assert kind == ("ImageLabel" if array.dtype == np.bool_ else "Image")


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("version", [2, 3])
def test_a_label_in_an_image(tmp_path, version, levels):
    path = tmp_path / "image.zarr"
    make_image(path, GREY, version, levels)
    scan = open_scan(path)
    write(path / "labels" / "vessels", MASK, scan.voxel_size_um, scan)
    image, _, label = nodes(path)
    np.testing.assert_array_equal(np.asarray(label.data[0])[0], MASK)
    assert len(label.data) == levels and [level.shape for level in label.data] == [level.shape for level in image.data]
    assert label.metadata["name"] == "vessels" and label.metadata["axes"] == image.metadata["axes"]
    for place, kind in (("", "Image"), ("labels", "Labels"), ("labels/vessels", "ImageLabel")):
        group = zarr.open_group(path / place, mode="r")
        assert type(models.open_ome_zarr(group)).__name__ == kind
