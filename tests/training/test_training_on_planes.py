"""Windows across three axes and in turned planes, through the settings and the training loop."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

from sennet_kaggle.config import Preprocessing, Training
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.inference.probability import PseudoLabelledVolume, add_pseudo_labels, save_probability
from sennet_kaggle.training import train
from sennet_kaggle.training.run_checks import check_run
from sennet_kaggle.training.train import fit

STACK = Preprocessing(region="windows", roi_size=32, offsets=(-1, 0, 1), outputs="all", mean=(0.5,), std=(0.2,))
TINY = Training(
    model_arguments={"widths": [4, 8], "bottleneck": 8},
    preprocessing=STACK,
    train_volumes=("k",),
    planes="zyx",
    oblique=30.0,
    loss="dice_bce_surface_3d",
    window_size=24,
    epochs=1,
    epoch_slices=8,
    batch_size=2,
    workers=0,
)


@pytest.fixture
def data_dir(tmp_path, write_kidney):
    write_kidney(tmp_path / "data" / "train" / "k", depth=36, size=(40, 38))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"preprocessing": Preprocessing(region="whole"), "window_size": None},
            "planes, oblique and synthetic go with region win",
        ),
        ({"oblique": 46.0}, "oblique must be at most 45 degrees and goes with augment, got 46 and augment True"),
        ({"augment": False}, "oblique must be at most 45 degrees and goes with augment, got 30 and augment False"),
        ({"oblique": -1.0}, "oblique must not be negative, got -1"),
        ({"oblique": float("nan")}, "oblique must hold finite numbers"),
        ({"planes": "zy"}, "planes must be one of z, zyx, got 'zy'"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(TINY, **changes).check()


def test_by_default_no_plane_is_cut():
    assert not Training().cuts_planes and (Training().planes, Training().oblique) == ("z", 0.0)
    assert dataclasses.replace(TINY, planes="z").cuts_planes and dataclasses.replace(TINY, oblique=0.0).cuts_planes


@pytest.mark.slow
def test_a_run_is_the_same_again(data_dir, tmp_path, monkeypatch):
    """And learns from all that is known and from nothing else, for the loss would be NaN."""
    first = fit(TINY, data_dir, tmp_path / "out")
    again = fit(TINY, data_dir, tmp_path / "again")
    assert first.read_bytes() == again.read_bytes()
    assert np.isfinite(pd.read_csv(tmp_path / "out" / "metrics.csv")["loss"]).all()
    kinds = {path.name.split(".")[1] for path in (tmp_path / "out" / "cache").glob("k-*")}
    assert kinds == {"grey", "label", "anchors"}


def test_unknown_voxels_are_not_learned_from(data_dir, tmp_path, monkeypatch):
    """Windows of 64 pixels reach beyond a kidney of 36 slices: that part counts for nothing."""
    shown = []

    def criterion(logits, target, valid_mask=None):
        shown.append((target, valid_mask))
        return logits.square().mean()

    monkeypatch.setattr(train, "create_criterion", lambda *_, **__: criterion)
    monkeypatch.setattr(train, "draw", lambda *_: None)
    fit(dataclasses.replace(TINY, window_size=64), data_dir, tmp_path / "out")
    masks = torch.cat([mask for _, mask in shown])
    assert masks.any() and not masks.all()
    assert all(set(target.unique().tolist()) <= {0.0, 1.0} for target, _ in shown)


def test_a_kidney_that_cannot_give_planes_is_refused_before_the_work(data_dir, tmp_path):
    for path in sorted((data_dir / "train" / "k" / "labels").iterdir())[::2]:
        path.unlink()
    with pytest.raises(InputError, match="planes zyx needs a kidney with at least 32 labelled slices that follow one"):
        check_run(TINY, data_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_of_an_earlier_version_goes_on(data_dir, tmp_path, capsys):
    """Its state names neither planes nor oblique."""
    plain = dataclasses.replace(TINY, planes="z", oblique=0.0)
    fit(plain, data_dir, tmp_path / "out")
    path = tmp_path / "out" / "training-state.pt"
    state = torch.load(path, weights_only=True)
    settings = json.loads(state["settings"])
    del settings["planes"], settings["oblique"]
    torch.save(state | {"settings": json.dumps(settings)}, path)
    fit(plain, data_dir, tmp_path / "out")
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds a run with oblique 0.0, now it is 30.0"):
        fit(TINY, data_dir, tmp_path / "out")


def test_pseudo_labels_are_cut_as_well(data_dir, tmp_path):
    """And other ones make another cache."""
    volume = open_volume(data_dir / "train" / "k")
    maps = ((slice_id, np.full((40, 38), z / 40, np.float32)) for z, slice_id in enumerate(volume.slice_ids))
    list(save_probability(tmp_path / "p", volume, maps))
    (completed,) = add_pseudo_labels([volume], tmp_path / "p", 0.5)
    assert isinstance(completed, PseudoLabelledVolume)
    digests = [each.label_digests([0, 30]) for each in (volume, completed)]
    (other,) = add_pseudo_labels([volume], tmp_path / "p", 0.8)
    assert digests[0] != digests[1] and other.label_digests([30]) != completed.label_digests([30])
    training = dataclasses.replace(TINY, pseudo_label_dir=str(tmp_path / "p"), held_out_fraction=0.0)
    from sennet_kaggle.training.training_data import split

    dataset, _ = split(training, data_dir, tmp_path / "cache")
    block = dataset._blocks["k", 0].block
    label = block.bricks.plane(block.bricks.label, 0, 30, (range(40), range(38)))
    assert (label == 1).all()
