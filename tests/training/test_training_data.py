"""What a run learns from: other data, another split, other weights are told from those of an earlier call."""

import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from conftest import write_tiff

from sennet_kaggle import files
from sennet_kaggle.config import Preprocessing, Training
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError, show_messages
from sennet_kaggle.inference.probability import save_probability
from sennet_kaggle.training import train
from sennet_kaggle.training.train import fit
from sennet_kaggle.training.training_data import difference, digest_data, open_data

TINY = Training(
    model_arguments={"widths": [4], "bottleneck": 8},
    preprocessing=Preprocessing(roi_size=32),
    train_volumes=("k",),
    held_out_slices=("k_0001",),
    epochs=1,
    batch_size=2,
    workers=0,
)


@pytest.fixture
def kidneys(tmp_path, write_kidney):
    """A folder with kidney k of eight slices, the last three without a label."""
    write_kidney(tmp_path / "data" / "train" / "k", depth=8, size=(50, 40))
    for z in (5, 6, 7):
        (tmp_path / "data" / "train" / "k" / "labels" / f"{z:04d}.tif").unlink()
    return tmp_path / "data"


def rewrite(path, pixel=(20, 20)):
    """Changes one grey value of a slice or one pixel of a label."""
    import cv2

    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    array[pixel] = array[pixel] ^ (255 if array.dtype == np.uint8 else 1)
    write_tiff(path, array)


def label(kidneys, z):
    write_tiff(kidneys / "train" / "k" / "labels" / f"{z:04d}.tif", np.eye(50, 40, dtype=np.uint8) * 255)


def digest(training, kidneys):
    return json.loads(json.dumps(digest_data(training, open_data(training, kidneys))))


NEIGHBOURS = dataclasses.replace(TINY.preprocessing, intensity="eight_bit", offsets=(-1, 0, 1))


@pytest.mark.parametrize(
    ("changes", "change", "says"),
    [
        (
            {},
            lambda data: rewrite(data / "train/k/images/0003.tif"),
            "the image or label of k_0003 is not the one that",
        ),
        ({}, lambda data: rewrite(data / "train/k/labels/0000.tif"), "label of k_0000 is not the one that was learned"),
        (
            {},
            lambda data: rewrite(data / "train/k/labels/0001.tif"),
            "label of k_0001 is not the one that was held out",
        ),
        ({}, lambda data: label(data, 5), "learned from 4 slices, now 5: k_0005 is new"),
        ({}, lambda data: (data / "train/k/labels/0004.tif").unlink(), "learned from 4 slices, now 3: k_0004 is gone"),
        ({}, lambda data: rewrite(data / "train/k/images/0006.tif"), "k has other slices around those with a label"),
        (
            {"preprocessing": NEIGHBOURS},
            lambda data: rewrite(data / "train/k/images/0005.tif"),
            "k has other slices around those with a label",
        ),
        ({"preprocessing": NEIGHBOURS}, lambda data: rewrite(data / "train/k/images/0006.tif"), None),
        ({}, lambda data: os.utime(data / "train/k/images/0000.tif", (1, 1)), None),
    ],
)
def test_what_has_changed_is_said(kidneys, changes, change, says):
    training = dataclasses.replace(TINY, **changes)
    before = digest(training, kidneys)
    change(kidneys)
    found = difference(before, digest(training, kidneys))
    assert found == says if says is None else says in found


def test_a_slice_that_changes_sides(kidneys):
    """The seed draws other slices once there are more labels."""
    before = digest(TINY, kidneys)
    now = digest(dataclasses.replace(TINY, held_out_slices=("k_0002",)), kidneys)
    assert difference(before, now) == "learned from 4 slices, now 4: k_0001 was held out and is learned from"


def test_labels_that_arrive_between_kill_and_resume(kidneys, tmp_path, monkeypatch):
    training = dataclasses.replace(TINY, held_out_slices=(), held_out_fraction=0.4, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(train, "draw", lambda *_: None)
        patch.setattr(train.TrainingState, "finish_epoch", finish_one_and_die(train.TrainingState.finish_epoch))
        with pytest.raises(KeyboardInterrupt):
            fit(training, kidneys, tmp_path / "out")
    for z in (5, 6, 7):
        label(kidneys, z)
    with pytest.raises(InputError, match=r"out holds a run with other data: learned from 3 slices, now 5: .*choose an"):
        fit(training, kidneys, tmp_path / "out")


def finish_one_and_die(finish_epoch):
    def dying(state, row):
        finish_epoch(state, row)
        raise KeyboardInterrupt

    return dying


def test_other_pseudo_labels(kidneys, tmp_path):
    """Only those of slices that are learned from count."""
    volume = open_volume(kidneys / "train" / "k")
    training = dataclasses.replace(TINY, pseudo_label_dir=str(tmp_path / "p"))

    def save(z):
        maps = np.zeros((8, 50, 40), np.float32)
        maps[z] = 0.9
        list(save_probability(tmp_path / "p", volume, zip(volume.slice_ids, maps, strict=True)))
        return digest(training, kidneys)

    before = save(1)
    assert difference(before, save(6)) is None
    assert "the image or label of k_0002 is not" in difference(before, save(2))


def test_other_weights_under_the_same_path(kidneys, tmp_path):
    first = fit(TINY, kidneys, tmp_path / "first")
    weights_path = tmp_path / "start.safetensors"
    weights_path.write_bytes(first.read_bytes())
    training = dataclasses.replace(TINY, init_from=str(weights_path))
    fit(training, kidneys, tmp_path / "out")
    fit(training, kidneys, tmp_path / "out")
    weights_path.write_bytes((tmp_path / "out" / "checkpoint.safetensors").read_bytes())
    with pytest.raises(InputError, match="other data: the weights it starts from are not those it started from; go on"):
        fit(training, kidneys, tmp_path / "out")


def test_a_state_of_an_earlier_version_goes_on(kidneys, tmp_path, capsys):
    fit(TINY, kidneys, tmp_path / "out")
    path = tmp_path / "out" / "training-state.pt"
    state = torch.load(path, weights_only=True)
    settings = json.loads(state["settings"])
    del state["data"], state["checkpoint"], settings["init_from"]
    torch.save({**state, "settings": json.dumps(settings)}, path)
    rewrite(kidneys / "train" / "k" / "images" / "0000.tif")
    said = []
    show_messages(said.append)
    fit(TINY, kidneys, tmp_path / "out")
    assert "warning: " in said[0] and "did not keep what its data were" in said[0]
    assert "already finished, nothing to train" in capsys.readouterr().out


def test_a_file_is_read_once(kidneys, tmp_path, monkeypatch):
    """The cache's name and the run's digest share the hashes; a run of another seed reads none."""
    opened = []
    original = files.hashlib.file_digest
    monkeypatch.setattr(
        files.hashlib, "file_digest", lambda file, name: opened.append(file.name) or original(file, name)
    )
    fit(TINY, kidneys, tmp_path / "out")
    images = [name for name in opened if name.endswith(".tif")]
    assert len(images) == len({*images}) == 8 + 5
    fit(dataclasses.replace(TINY, seed=1), kidneys, tmp_path / "other")
    assert [name for name in opened if name.endswith(".tif")] == images
