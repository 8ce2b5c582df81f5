import dataclasses
import pickle

import numpy as np
import pytest
import torch
from conftest import write_tiff
from torch.utils.data import DataLoader

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.data import cache
from sennet_kaggle.data.dataset import SliceDataset
from sennet_kaggle.data.intensity import measure_intensity, slice_to_image
from sennet_kaggle.data.neighbours import read_stack
from sennet_kaggle.data.resizing import resize_image
from sennet_kaggle.data.transforms import image_to_tensor, mask_to_target
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError

PREPROCESSING = Preprocessing(roi_size=32)


@pytest.fixture
def volume(tmp_path, write_kidney):
    write_kidney(tmp_path / "k", depth=4, size=(50, 40))
    (tmp_path / "k" / "labels" / "0003.tif").unlink()
    return open_volume(tmp_path / "k")


def test_pairs(volume):
    dataset = SliceDataset([volume], PREPROCESSING)
    assert list(dataset.slices) == ["k_0000", "k_0001", "k_0002"]  # 0003 is unlabelled
    image, target = dataset[1]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32
    assert target.shape == (1, 32, 32) and set(target.unique().tolist()) == {0.0, 1.0}


def test_selection(volume):
    assert list(SliceDataset([volume], PREPROCESSING, exclude=["k_0001"]).slices) == ["k_0000", "k_0002"]
    assert list(SliceDataset([volume], PREPROCESSING, only=["k_0001"]).slices) == ["k_0001"]
    with pytest.raises(InputError, match="k_0003 is not a labelled slice: expected one of k_0000, k_0001, k_0002"):
        SliceDataset([volume], PREPROCESSING, exclude=["k_0003"])
    with pytest.raises(InputError, match="no labelled slice is left in k"):
        SliceDataset([volume], PREPROCESSING, exclude=["k_0000", "k_0001", "k_0002"])


def test_augmentation_depends_on_seed_epoch_and_index_alone(volume):
    def draw(seed, epoch, index):
        dataset = SliceDataset([volume], PREPROCESSING, augment=True, seed=seed)
        dataset.epoch = epoch
        return dataset[index][0]

    torch.testing.assert_close(draw(0, 1, 2), draw(0, 1, 2), rtol=0, atol=0)
    for other in ((1, 1, 2), (0, 2, 2)):
        assert not torch.equal(draw(0, 1, 2), draw(*other))


def same(pairs, others):
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(pairs, others, strict=True))


@pytest.mark.parametrize("augment", [False, True])
def test_the_cache_changes_no_pair(volume, tmp_path, augment):
    arguments = {"augment": augment, "exclude": ["k_0001"], "seed": 3}
    read = SliceDataset([volume], PREPROCESSING, **arguments)
    cached = SliceDataset([volume], PREPROCESSING, **arguments, cache_dir=tmp_path)
    for epoch in (1, 2):
        read.epoch = cached.epoch = epoch
        assert same(read, cached)
    assert read.vessel_fraction() == cached.vessel_fraction()


def test_unvaried_pairs_are_what_prediction_sees(volume, tmp_path):
    intensity = measure_intensity(volume, PREPROCESSING)
    for dataset in (SliceDataset([volume], PREPROCESSING, cache_dir=cache_dir) for cache_dir in (None, tmp_path)):
        image, target = dataset[2]
        expected = image_to_tensor(volume[2], PREPROCESSING, intensity=intensity)
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)
        resized = slice_to_image(resize_image(volume[2], PREPROCESSING), intensity, PREPROCESSING)
        assert torch.equal(image, image_to_tensor(resized, PREPROCESSING))
        assert torch.equal(target, mask_to_target(volume.label(2), PREPROCESSING))


def test_one_cache_serves_every_split(volume, tmp_path, monkeypatch):
    SliceDataset([volume], PREPROCESSING, only=["k_0002"], cache_dir=tmp_path)
    monkeypatch.setattr(cache, "read_pair", None)
    SliceDataset([volume], PREPROCESSING, exclude=["k_0002"], cache_dir=tmp_path)


def test_only_kidneys_that_are_used_are_cached(volume, tmp_path, write_kidney):
    write_kidney(tmp_path / "unused")
    volumes = [volume, open_volume(tmp_path / "unused")]
    SliceDataset(volumes, PREPROCESSING, only=["k_0000"], cache_dir=tmp_path / "cache")
    assert {path.name.split("-")[0] for path in (tmp_path / "cache").glob("*.npy")} == {"k"}


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_loader_workers_map_the_cache(volume, tmp_path, context):
    dataset = SliceDataset([volume], PREPROCESSING, augment=True, cache_dir=tmp_path)
    dataset.epoch = 1
    pairs = [*dataset]  # the files are mapped before the workers start
    workers = 2 if context == "fork" else 1
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=context)
    assert same(loader, pairs)


def test_pickling_copies_no_slice(volume, tmp_path):
    dataset = SliceDataset([volume], Preprocessing(roi_size=128), cache_dir=tmp_path)
    dataset[0]
    assert len(pickle.dumps(dataset)) < 128 * 128


def test_labels_that_do_not_fit_are_found_at_the_start(volume, tmp_path):
    write_tiff(volume.label_paths["0001"], np.zeros((50, 39), np.uint8))
    for cache_dir in (None, tmp_path / "cache"):
        with pytest.raises(InputError, match="0001.tif is 50x39 but its image .* is 50x40"):
            SliceDataset([volume], PREPROCESSING, cache_dir=cache_dir)


def test_unlabelled_slices_are_counted(volume, tmp_path, write_kidney):
    write_kidney(tmp_path / "bare", depth=2, labels=False)
    dataset = SliceDataset([volume, open_volume(tmp_path / "bare")], PREPROCESSING)
    assert dataset.unlabelled == {"k": 1, "bare": 2}
    assert dataset.slice_ids == ["k_0000", "k_0001", "k_0002"]


def test_vessel_fraction(tmp_path, write_kidney):
    """Of two 32x32 targets one has 8 x 16 vessel pixels: 128 / 2048."""
    write_kidney(tmp_path / "k", depth=2, size=(64, 64))
    label = np.zeros((64, 64), np.uint8)
    write_tiff(tmp_path / "k" / "labels" / "0000.tif", label)
    label[:16, :32] = 255
    write_tiff(tmp_path / "k" / "labels" / "0001.tif", label)
    dataset = SliceDataset([open_volume(tmp_path / "k")], PREPROCESSING, augment=True)
    assert dataset.vessel_fraction() == 0.0625


WINDOWS = Preprocessing(region="windows", roi_size=24)


def test_windows_at_native_resolution(volume):
    """Without variation a window is a piece of the slice as inference sees it, and of its label."""
    dataset = SliceDataset([volume], WINDOWS)
    for index in (0, 1, 2, 3 + 1, 30 + 2):
        image, target = dataset[index]
        assert image.shape == (3, 24, 24) and target.shape == (1, 24, 24)
        z = index % 3
        stack = read_stack(volume, z, WINDOWS)
        whole = image_to_tensor(stack, WINDOWS, intensity=measure_intensity(volume, WINDOWS))
        label = volume.label(z)
        places = [
            (row, column)
            for row in range(50 - 23)
            for column in range(40 - 23)
            if np.array_equal(label[row : row + 24, column : column + 24], target[0].numpy() == 1)
        ]
        assert len(places) == 1
        row, column = places[0]
        torch.testing.assert_close(image, whole.expand(3, -1, -1)[:, row : row + 24, column : column + 24])


def test_windows_drawn_again_lie_elsewhere(volume):
    dataset = SliceDataset([volume], WINDOWS, augment=True)
    first, again, later = dataset[1], dataset[1], dataset[1 + 3]
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first[0], later[0])


@pytest.mark.parametrize("region", ["whole", "windows"])
def test_neighbours_are_channels(volume, region):
    """Offsets -1, 0, 1: the channels of slice 1 are the slices 0, 1 and 2; at the end the last is repeated."""
    preprocessing = Preprocessing(region=region, roi_size=32, offsets=(-1, 0, 1), mean=(0.0,), std=(1.0,))
    dataset = SliceDataset([volume], preprocessing)
    image, _ = dataset[1]
    single = Preprocessing(region=region, roi_size=32, mean=(0.0,), std=(1.0,))
    if region == "whole":
        alone = SliceDataset([volume], single)
        torch.testing.assert_close(image, torch.cat([alone[z][0] for z in range(3)]))
    assert image.shape == (3, 32, 32) and not torch.equal(image[0], image[1])
    first, _ = dataset[0]
    torch.testing.assert_close(first[0], first[1])
    assert not torch.equal(first[1], first[2])


@pytest.mark.parametrize("region", ["whole", "windows"])
@pytest.mark.parametrize("augment", [False, True])
def test_a_target_per_offset(tmp_path, write_kidney, region, augment):
    """Each channel's target is the label of the slice that it shows; those of other slices are not known."""
    write_kidney(tmp_path / "k", depth=6, size=(40, 31))
    (tmp_path / "k" / "labels" / "0004.tif").unlink()
    volume = open_volume(tmp_path / "k")
    preprocessing = Preprocessing(region=region, roi_size=32, offsets=(0, -1, 1), outputs="all")
    arguments = {"only": ["k_0000", "k_0001", "k_0003"], "augment": augment}
    dataset = SliceDataset([volume], preprocessing, **arguments)
    centre = SliceDataset([volume], dataclasses.replace(preprocessing, outputs="centre"), **arguments)
    known = [[not channel.isnan().any() for channel in dataset[index][1]] for index in range(3)]
    # Slice 0 has none before it; 2 is held out, 4 has no label.
    assert known == [[True, False, True], [True, True, False], [True, False, False]]
    for index in range(3):
        (image, target), (same_image, own) = dataset[index], centre[index]
        assert torch.equal(image, same_image) and torch.equal(target[:1], own)
        assert target.shape == (3, 32, 32)
    if region == "whole" and not augment:
        assert torch.equal(dataset[0][1][2:], centre[1][1])  # the label of slice 1, from both
        assert torch.equal(dataset[1][1][1:2], centre[0][1])


def test_outputs_of_channels_that_show_one_slice(tmp_path, write_kidney):
    """Offsets all 0: as many targets as channels, from the cache as well."""
    write_kidney(tmp_path / "k", depth=2)
    preprocessing = Preprocessing(roi_size=32, outputs="all")
    for cache_dir in (None, tmp_path / "cache"):
        _, target = SliceDataset([open_volume(tmp_path / "k")], preprocessing, cache_dir=cache_dir)[0]
        assert target.shape == (3, 32, 32)
        assert torch.equal(target[0], target[1]) and torch.equal(target[0], target[2])


def test_a_neighbour_of_another_size_is_not_known(tmp_path, write_kidney):
    write_kidney(tmp_path / "k", depth=2, size=(40, 31))
    write_kidney(tmp_path / "k", depth=1, size=(30, 31), first=2)
    dataset = SliceDataset([open_volume(tmp_path / "k")], Preprocessing(roi_size=32, offsets=(-1, 0, 1), outputs="all"))
    assert [bool(channel.isnan().all()) for channel in dataset[1][1]] == [False, False, True]


@pytest.mark.parametrize("offsets", [(0,), (-1, 0, 1)])
def test_a_gap_is_said_where_neighbours_are_channels(volume, caplog, offsets):
    for path in (volume.image_paths[1], volume.label_paths["0001"]):
        path.unlink()
    kidney_dir = volume.image_paths[0].parents[1]
    SliceDataset([open_volume(kidney_dir)], Preprocessing(roi_size=32, offsets=offsets, mean=(0.0,), std=(1.0,)))
    assert ("not consecutive (between 0000 and 0002), but training with offsets" in caplog.text) == any(offsets)


def test_a_kidney_of_another_scale_is_enlarged(tmp_path):
    """The same ramp in two kidneys: shown twice as large, it rises half as steeply, however it is turned."""
    ramp = np.tile(np.arange(96, dtype=np.uint16) * 600, (96, 1)) + np.arange(96, dtype=np.uint16)[:, None]
    label = np.zeros((96, 96), np.uint8)
    label[40:56, 40:56] = 255
    for name in ("a", "b"):
        write_tiff(tmp_path / name / "images" / "0000.tif", ramp)
        write_tiff(tmp_path / name / "labels" / "0000.tif", label)
    preprocessing = Preprocessing(region="windows", roi_size=16, mean=(0.0,), std=(1.0,))
    volumes = [open_volume(tmp_path / name) for name in ("a", "b")]
    varied = {"augment": True, "zoom": (1.0, 1.0), "light": 0.0, "noise": 0.0}
    dataset = SliceDataset(volumes, preprocessing, scales={"b": 2.0}, **varied)
    # In the middle, where a turned window surely shows the slice and not its repeated border.
    steep = [np.hypot(*np.gradient(image[0, 5:11, 5:11].numpy())).mean() for image, _ in dataset]
    assert steep[0] / steep[1] == pytest.approx(2, rel=0.03)  # OpenCV places pixels to a 32nd
