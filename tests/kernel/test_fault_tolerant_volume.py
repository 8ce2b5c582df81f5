"""Kidneys that can always be read."""

import numpy as np
import pytest
from conftest import write_tiff
from raw_tiff import write_raw

from sennet_kaggle.errors import InputError
from sennet_kaggle.kernel import fault_tolerant_volume
from sennet_kaggle.kernel.fault_tolerant_volume import open_fault_tolerant_volumes
from sennet_kaggle.kernel.faults import Faults


@pytest.fixture
def kidney(tmp_path, write_kidney):
    images, _ = write_kidney(tmp_path / "test" / "k", depth=5, labels=False)
    return tmp_path, images, [tmp_path / "test" / "k" / "images" / f"{z:04d}.tif" for z in range(5)]


def open_kidney(data_dir, strict=False):
    return open_fault_tolerant_volumes(data_dir, Faults(strict, say=lambda _: None))[0]


def test_a_sound_kidney_is_read_as_it_is(kidney):
    data_dir, images, _ = kidney
    volume = open_kidney(data_dir, strict=True)
    np.testing.assert_array_equal(list(volume), images)
    assert (volume.size, volume.dtype, volume.touched) == ((40, 31), np.uint16, set())


@pytest.mark.parametrize(("damaged", "z", "read"), [([0], 0, 1), ([4], 4, 3), ([0, 1, 2], 0, 3), ([1, 2], 2, 3)])
def test_the_nearest_sound_slice_stands_in(kidney, damaged, z, read):
    data_dir, images, paths = kidney
    for each in damaged:
        paths[each].write_bytes(b"II*\0")
    volume = open_kidney(data_dir)
    np.testing.assert_array_equal(volume[z], images[read])
    assert volume.slice_size(z) == (40, 31)
    assert len(list(volume)) == 5 and volume.touched == set(damaged)
    assert len(volume.faults.noted) == len(damaged)
    with pytest.raises(InputError, match="0.*tif is not a TIFF or is damaged"):
        list(open_kidney(data_dir, strict=True))


def test_no_file_is_read_more_often_than_it_must(kidney, monkeypatch):
    data_dir, _, paths = kidney
    paths[2].write_bytes(b"II*\0")
    read, original = [], fault_tolerant_volume.read_grey
    monkeypatch.setattr(fault_tolerant_volume, "read_grey", lambda path: read.append(path) or original(path))
    volume = open_kidney(data_dir)
    for _ in range(2):
        list(volume)
    others = [path for path in paths if path not in (paths[1], paths[2])]
    assert read.count(paths[2]) == 1 and [read.count(path) for path in others] == [2, 2, 2]
    assert read.count(paths[1]) == 4  # the neighbour that stands in, too


def test_another_size_is_made_to_fit(kidney):
    data_dir, _, paths = kidney
    write_tiff(paths[2], np.full((20, 60), 500, np.uint16))
    volume = open_kidney(data_dir)
    np.testing.assert_array_equal(volume[2], np.full((40, 31), 500))
    assert volume.slice_size(2) == (20, 60)
    assert volume.faults.noted[0].problem == "is 20x60, most slices are 40x31"


def test_another_depth_keeps_its_contrast(kidney):
    data_dir, _, paths = kidney
    write_tiff(paths[2], np.tile(np.array([[0, 255]], np.uint8), (40, 16))[:, :31])
    assert np.unique(open_kidney(data_dir)[2]).tolist() == [0, 65535]


def test_no_sound_slice(kidney):
    data_dir, _, paths = kidney
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(InputError, match="k has no slice that can be read"):
        open_kidney(data_dir)[2]


def test_hidden_files_are_no_slices_and_numbers_sort_as_numbers(kidney):
    data_dir, images, paths = kidney
    for z, path in enumerate(paths):
        path.rename(path.with_stem(str(z + 7)))
    paths[0].with_name("._7.tif").write_bytes(b"")
    paths[0].with_name("8.tiff").write_bytes(b"")  # the .tif counts
    (data_dir / "test" / ".ipynb_checkpoints" / "images").mkdir(parents=True)
    volume = open_kidney(data_dir)
    assert volume.slice_ids == [f"k_{z}" for z in range(7, 12)]
    np.testing.assert_array_equal(list(volume), images)
    assert [fault.problem for fault in volume.faults.noted] == ["has two slices of the name 8"]


def test_a_strip_without_data_does_not_black_out_its_slice(kidney):
    data_dir, images, paths = kidney
    write_raw(paths[2], images[2], change=lambda offsets, counts: counts.__setitem__(1, 0))
    volume = open_kidney(data_dir)
    np.testing.assert_array_equal(volume[2], images[1])
    assert "0002.tif has no data for 1 of its 4 strips" in str(volume.faults.noted[0])


def test_no_slices_at_all(tmp_path):
    (tmp_path / "test" / "k").mkdir(parents=True)
    with pytest.raises(InputError, match="has no slices: expected <kidney>/images"):
        open_fault_tolerant_volumes(tmp_path, Faults(strict=False, say=lambda _: None))
