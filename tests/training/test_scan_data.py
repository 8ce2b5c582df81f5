"""Scans and corrected masks in other formats as training data: whole, sparse, and partly annotated."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import write_tiff
from scan_files import NAMES, write

from sennet_kaggle.config import Preprocessing, Training
from sennet_kaggle.data.dataset import SliceDataset
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.models.checkpoint import read_card
from sennet_kaggle.training.evaluate import evaluate
from sennet_kaggle.training.scan_data import import_scans
from sennet_kaggle.training.train import fit
from sennet_kaggle.training.training_data import digest_data, open_data
from sennet_kaggle.training.training_model import create_initial_model

pytestmark = pytest.mark.usefixtures("one_thread")
GREY = np.random.default_rng(0).integers(0, 2**16, (5, 50, 40), np.uint16)
MASK = np.random.default_rng(1).random(GREY.shape) < 0.1
SIZE_UM = (25.0, 25.0, 25.0)
LOOK_LATER = 7
TINY = Training(
    model_arguments={"widths": [4], "bottleneck": 8},
    preprocessing=Preprocessing(roi_size=32),
    train_volumes=("k",),
    epochs=1,
    batch_size=2,
    workers=0,
)


def kidney(root, images_name="images.ome.zarr", labels_name="labels.ome.zarr", labels=MASK):
    (root / "train" / "k").mkdir(parents=True)
    write(root / "train" / "k" / images_name, GREY, SIZE_UM)
    write(root / "train" / "k" / labels_name, labels, SIZE_UM)
    return root


def imported(tmp_path, training=TINY):
    return open_volume(import_scans(training, tmp_path / "data", tmp_path / "cache") / "train" / "k")


def partly():
    """A mask whose slice 1 nobody has looked at, and of slice 3 the upper half only."""
    labels = MASK.astype(np.uint8)
    labels[1] = LOOK_LATER
    labels[3, 25:] = LOOK_LATER
    return labels


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_read_as_the_layout(tmp_path, name):
    ending = name.removeprefix("scan").removeprefix("folder")
    kidney(tmp_path / "data", f"images{ending}", f"labels{ending}")
    volume = imported(tmp_path)
    np.testing.assert_array_equal(np.stack([*volume]), GREY)
    np.testing.assert_array_equal(np.stack([volume.label(z) for z in range(5)]), MASK)
    assert volume.annotated(0) is None and volume.slice_ids[0] == "k_0000"
    copied = name != "folder"
    assert (tmp_path / "cache").exists() == copied


def test_sparse_masks(tmp_path):
    """A folder of fewer slices, and a value for what nobody has looked at."""
    kidney(tmp_path / "data", labels_name="labels.npy", labels=partly())
    training = dataclasses.replace(TINY, not_annotated=LOOK_LATER)
    volume = imported(tmp_path, training)
    assert [volume.is_labelled(z) for z in range(5)] == [True, False, True, True, True]
    assert volume.annotated(0) is None
    np.testing.assert_array_equal(volume.annotated(3), np.arange(50)[:, None] < np.full((50, 40), 25))
    np.testing.assert_array_equal(volume.label(3)[:25], MASK[3, :25])
    (tmp_path / "data" / "train" / "k" / "labels.npy").unlink()
    write_tiff(tmp_path / "data" / "train" / "k" / "labels" / "0002.tif", MASK[2].astype(np.uint8) * 255)
    volume = imported(tmp_path)
    assert [volume.is_labelled(z) for z in range(5)] == [False, False, True, False, False]


@pytest.mark.parametrize("region", ["whole", "windows"])
@pytest.mark.parametrize("augment", [False, True])
def test_what_is_not_annotated_is_nan_in_the_target(tmp_path, region, augment):
    kidney(tmp_path / "data", labels_name="labels.npy", labels=partly())
    volume = imported(tmp_path, dataclasses.replace(TINY, not_annotated=LOOK_LATER))
    pairs = SliceDataset([volume], Preprocessing(region=region, roi_size=40), augment=augment)
    assert pairs.slice_ids == ["k_0000", "k_0002", "k_0003", "k_0004"] and pairs.is_partly_annotated
    if region == "whole" and not augment:
        (target,) = pairs[2][1]
        np.testing.assert_array_equal(target.isnan().numpy(), np.repeat(np.arange(40) >= 20, 40).reshape(40, 40))
        assert not pairs[0][1].isnan().any()
    for index in range(2, 40, 4):
        image, target = pairs[index]
        assert image.isfinite().all() and {*target[target.isfinite()].unique().tolist()} <= {0.0, 1.0}
    assert any(pairs[index][1].isnan().any() for index in range(2, 40, 4))


def test_values_beyond_what_is_annotated_change_nothing(tmp_path):
    """Two masks that differ only there give the same weights, loss and score."""
    weights, rows = [], []
    for name, hidden in (("a", False), ("b", True)):
        kidney(tmp_path / name, labels_name="labels.npy", labels=partly())
        training = dataclasses.replace(TINY, not_annotated=LOOK_LATER, held_out_slices=("k_0000",), epochs=2)
        root = import_scans(training, tmp_path / name, tmp_path / f"cache-{name}")
        if hidden:  # vessels there that no one has marked
            path = root / "train" / "k" / "labels" / "0003.tif"
            label = np.where(np.arange(50)[:, None] < 25, MASK[3], True)
            write_tiff(path, label.astype(np.uint8) * 255)
        checkpoint = fit(dataclasses.replace(training, not_annotated=None), root, tmp_path / f"out-{name}")
        card = read_card(checkpoint)
        weights.append(checkpoint.read_bytes()[-2000:])
        rows.append((tmp_path / f"out-{name}" / "metrics.csv").read_text().splitlines()[-1].split(",")[:4])
        assert card.voxel_size_um == 25.0 and "k_0001" not in card.trained_on
    assert weights[0] == weights[1] and rows[0] == rows[1]


def test_held_out_pixels_that_are_not_annotated_do_not_count(tmp_path):
    kidney(tmp_path / "data", labels_name="labels.npy", labels=partly())
    volume = imported(tmp_path, dataclasses.replace(TINY, not_annotated=LOOK_LATER))
    held_out = SliceDataset([volume], TINY.preprocessing, only=["k_0003"])
    torch.manual_seed(0)
    model = create_initial_model(TINY)
    before = evaluate(model, held_out, TINY)
    write_tiff(volume.label_path(3), np.where(np.arange(50)[:, None] < 25, MASK[3], True).astype(np.uint8) * 255)
    assert evaluate(model, held_out, TINY) == before
    np.testing.assert_allclose(held_out.vessel_fraction(), MASK[3, :25].mean(), rtol=0.3)


def test_a_copy_is_taken_again_until_something_changes(tmp_path):
    kidney(tmp_path / "data", labels_name="labels.npy", labels=MASK)
    first = imported(tmp_path)
    stamp = first.image_paths[0].stat().st_mtime_ns
    assert imported(tmp_path).image_paths[0].stat().st_mtime_ns == stamp
    corrected = MASK.copy()
    corrected[0, 0] = True
    np.save(tmp_path / "data" / "train" / "k" / "labels.npy", corrected)
    assert imported(tmp_path).label(0)[0].all() and not first.label(0)[0].all()


def test_what_is_annotated_tells_runs_apart(tmp_path):
    kidney(tmp_path / "data", labels_name="labels.npy", labels=partly())
    training = dataclasses.replace(TINY, not_annotated=LOOK_LATER)
    root = import_scans(training, tmp_path / "data", tmp_path / "cache")
    before = digest_data(training, open_data(training, root))
    path = open_volume(root / "train" / "k").annotated_paths["0003"]
    write_tiff(path, np.full((50, 40), 255, np.uint8))
    after = digest_data(training, open_data(training, root))
    changed = [slice_id for slice_id in before["learned"] if before["learned"][slice_id] != after["learned"][slice_id]]
    assert changed == ["k_0003"]
    assert json.loads((root / "train" / "k" / "scan.json").read_bytes())["voxel_size_um"] == [*SIZE_UM]


def two_labels(folder):
    write(folder / "labels.npy", MASK)


def orphan(folder):
    (folder / "labels.ome.zarr").rename(folder.parent / "away")
    write_tiff(folder / "labels" / "0009.tif", np.zeros((50, 40), np.uint8))


def no_labels(folder):
    (folder / "labels.ome.zarr").rename(folder.parent / "away")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (two_labels, "must have its labels once, found labels.npy and labels.ome.zarr"),
        (orphan, "has labels without a slice in .*, the first 0009"),
        (no_labels, "must have images and labels, found no labels"),
    ],
)
def test_what_is_refused(tmp_path, prepare, message):
    prepare(kidney(tmp_path / "data") / "train" / "k")
    with pytest.raises(InputError, match=message):
        imported(tmp_path)


def test_masks_that_do_not_fit(tmp_path):
    root = kidney(tmp_path / "data", labels_name="labels.npy", labels=MASK[:4])
    with pytest.raises(InputError, match=r"labels.npy is \(4, 50, 40\) but .* is \(5, 50, 40\): both must be of one"):
        imported(tmp_path)
    np.save(root / "train" / "k" / "labels.npy", np.full(MASK.shape, LOOK_LATER, np.uint8))
    with pytest.raises(InputError, match="must have at least one annotated slice, found 7 everywhere"):
        imported(tmp_path, dataclasses.replace(TINY, not_annotated=LOOK_LATER))
    assert [each.name for each in (tmp_path / "cache" / "scans").iterdir() if each.name != ".lock"] == []
    with pytest.raises(InputError, match="not_annotated must be another value than 0"):
        dataclasses.replace(TINY, not_annotated=0).check()
