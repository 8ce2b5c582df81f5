"""The ablation on tiny kidneys: what is trained, what chooses, and what the tables say."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import watched, write_tiff

from sennet_kaggle.config import Preprocessing, Training
from sennet_kaggle.data.volume import open_volume, open_volumes
from sennet_kaggle.errors import InputError
from sennet_kaggle.inference.loading import load_predictors
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.studies import ablate as module
from sennet_kaggle.studies.ablate import VARIANTS, Run, ablate, plan, validate
from sennet_kaggle.studies.ablate_axes import validate_shipped
from sennet_kaggle.studies.experiments import EXPERIMENTS, FOLDS, SHIPPED
from sennet_kaggle.studies.held_out import ENLARGED, LEARNED, choose_threshold, predict_held_out
from sennet_kaggle.training.train import fit

TINY = {
    "model_arguments": {"widths": [4], "bottleneck": 4, "unshuffle": 2},
    "preprocessing": {"roi_size": 64},
    "window_size": 32,
    "epochs": 1,
    "epoch_slices": 2,
}


@pytest.fixture
def kidneys(tmp_path):
    """The eleven slices of kidney_1_dense and two of kidney_2, in small."""
    rng = np.random.default_rng(0)
    for kidney, stems in (("kidney_1_dense", sum(FOLDS, ())), ("kidney_2", ("0153", "0742"))):
        for stem in stems:
            mask = rng.random((40, 31)) < 0.2
            grey = (rng.integers(20000, 30000, mask.shape) - 8000 * mask).astype(np.uint16)
            write_tiff(tmp_path / "data" / "train" / kidney / "images" / f"{stem}.tif", grey)
            write_tiff(tmp_path / "data" / "train" / kidney / "labels" / f"{stem}.tif", mask.astype(np.uint8) * 255)
    return tmp_path / "data"


def test_the_folds_hold_out_every_slice_once():
    stems = sorted(sum(FOLDS, ()))
    assert len(stems) == len({*stems}) == 11
    assert {"1225", "1226"} <= {*FOLDS[2]}


def test_one_thing_is_changed_at_a_time():
    runs = plan((0, 1, 2), {"epochs": 5})
    assert [run for run in runs if run.variant == "as shipped"] == [Run("as shipped", seed) for seed in (0, 1, 2)]
    base = runs[Run("as shipped", 0)]
    assert base.held_out_slices == ("kidney_1_dense_0414", "kidney_1_dense_0981", "kidney_1_dense_1806")
    assert base.epochs == base.evaluate_every == 5 and base.loss == EXPERIMENTS[SHIPPED].loss
    for run, training in runs.items():
        changed = {
            field.name
            for field in dataclasses.fields(Training)
            if getattr(training, field.name) != getattr(base, field.name)
        }
        if run.seed == 0:
            assert changed == VARIANTS[run.variant].changes.keys()
    with pytest.raises(InputError, match=r"seeds must be at least two, to tell a gain from chance, got \[0\]"):
        plan((0,), {})
    with pytest.raises(InputError, match="unknown setting 'epoch'"):
        plan((0, 1), {"epoch": 3})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"loss": "dice_bce"}, "override makes 'without surface loss' the same as what is shipped: leave out loss"),
        ({"augment": False}, "override makes 'without variation' the same as what is shipped: leave out augment"),
        ({"seed": 3}, "override has seed, which the ablation sets itself"),
        ({"evaluate_every": 1}, "override has evaluate_every, which the ablation sets itself"),
        ({"learning_rate": "fast"}, "as shipped: learning_rate must be float, found 'fast'"),
        ({"window_size": 0}, "as shipped: window_size must be positive and goes with region windows"),
        ({"preprocessing": {"region": "whole"}}, "as shipped: window_size must be positive and goes with region"),
    ],
)
def test_every_variant_is_checked_before_the_first_training(kidneys, tmp_path, monkeypatch, overrides, message):
    monkeypatch.setattr(module, "fit", None)
    with pytest.raises(InputError, match=message):
        ablate(kidneys, tmp_path / "out", (0, 1), overrides)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seeds", [(0, 0), (0, -1), (0, 2**32)])
def test_seeds_of_an_ablation(seeds):
    with pytest.raises(InputError, match="seed"):
        plan(seeds, {})


def test_the_threshold_is_the_middle_of_the_plateau():
    """Probabilities 0.2 outside and 0.72 inside: all thresholds from 0.2 to 0.7 are right, 0.45 is amid them."""
    mask_gt = np.zeros((8, 8), bool)
    mask_gt[2:5, 2:5] = True
    answers = [("k_0", mask_gt, torch.from_numpy(np.where(mask_gt, 0.72, 0.2)))]
    assert choose_threshold(iter(answers), 1.0) == pytest.approx(0.45)


@pytest.mark.slow
def test_ablation(kidneys, tmp_path, monkeypatch):
    """From folders to tables; kidney_2's labels change its own scores and no threshold."""
    chosen = ("as shipped", "without variation", "used without flips", "two seeds averaged")
    monkeypatch.setattr(module, "VARIANTS", {name: VARIANTS[name] for name in chosen})
    monkeypatch.setattr(module, "validate_axes", lambda: "axes\n")
    path = ablate(kidneys, tmp_path / "out", (0, 1), TINY)
    text, table = path.read_text(), pd.read_csv(tmp_path / "out" / "results.csv")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows[2:6]] == list(chosen)
    assert [row[1] for row in rows[2:6]] == ["0, 1", "0", "0, 1", "0 and 1"]
    assert "±" in rows[2][3] and "±" not in rows[3][3]
    assert "\naxes\n" in text
    first = table[(table["variant"] == "as shipped") & (table["kidney"] == "kidney_1_dense")]
    assert rows[2][3].startswith(f"{first['dice_mean'].mean():.3f} ± ")

    for label in sorted((kidneys / "train" / "kidney_2" / "labels").iterdir()):
        write_tiff(label, np.full((40, 31), 255, np.uint8))
    ablate(kidneys, tmp_path / "out", (0, 1), TINY)  # trains nothing anew
    other = pd.read_csv(tmp_path / "out" / "results.csv")
    assert {*table["kidney"]} == {LEARNED, f"{LEARNED}, stretched", *ENLARGED, "kidney_2"}
    is_test = table["kidney"] == "kidney_2"
    pd.testing.assert_frame_equal(other[~is_test], table[~is_test])
    pd.testing.assert_series_equal(other["threshold"], table["threshold"])
    assert (other[is_test]["dice_mean"] != table[is_test]["dice_mean"]).all()


def test_slices_that_were_learned_from_are_not_validated(kidneys, tmp_path):
    checkpoint = fit(plan((0, 1), TINY)[Run("as shipped", 0)], kidneys, tmp_path / "out")
    volumes = {volume.name: volume for volume in open_volumes(kidneys, "train")}
    inference = VARIANTS["as shipped"].inference
    predictors = load_predictors([checkpoint], inference)
    answers = {
        kidney: {each: rest for each, *rest in predict_held_out(predictors, volumes, kidney, 0, inference)}
        for kidney in ("kidney_1_dense", "kidney_1_dense, stretched", "kidney_2")
    }
    held_out = {f"kidney_1_dense_{stem}" for stem in FOLDS[0]}
    assert {kidney: {*each} for kidney, each in answers.items()} == {
        "kidney_1_dense": held_out,
        "kidney_1_dense, stretched": held_out,
        "kidney_2": {"kidney_2_0153", "kidney_2_0742"},
    }
    plain, stretched = answers["kidney_1_dense"], answers["kidney_1_dense, stretched"]
    for slice_id in held_out:
        np.testing.assert_array_equal(plain[slice_id][0], stretched[slice_id][0])
        assert (plain[slice_id][1] != stretched[slice_id][1]).any()
    runs = {Run("as shipped", seed): checkpoint for seed in (0, 1)}
    rows = validate("as shipped", runs, volumes)
    assert [row["seeds"] for row in rows if row["kidney"] == "kidney_1_dense"] == ["0", "1"]


def test_few_slices_of_the_test_kidney_are_held(kidneys, tmp_path, write_kidney):
    arguments = {"widths": [4], "bottleneck": 4, "in_channels": 1}
    card = Card("unet", arguments, Preprocessing(region="windows", roi_size=64, mean=(0.4,), std=(0.3,)), 0.5)
    save_checkpoint(tmp_path / "c.safetensors", create_model("unet", **arguments), card)
    checkpoints = {Run("as shipped", seed): tmp_path / "c.safetensors" for seed in (0, 1)}
    most = []
    for depth in (20, 44):  # 16 are sampled at once
        write_kidney(tmp_path / str(depth) / "kidney_2", depth=depth, size=(20, 20))
        volume = watched(open_volume(tmp_path / str(depth) / "kidney_2"))
        validate("two seeds averaged", checkpoints, {"kidney_2": volume, LEARNED: open_learned(kidneys)})
        most.append(volume.alive["most"])
    assert most[1] <= most[0] + 2, most


def open_learned(data_dir):
    return open_volume(data_dir / "train" / LEARNED)


def test_a_test_kidney_that_was_learned_from_is_refused(kidneys, tmp_path):
    for name in ("images", "labels"):
        learned = kidneys / "train" / LEARNED / name / "1225.tif"
        shutil.copy(learned, kidneys / "train" / "kidney_2" / name / "0800.tif")
    with pytest.raises(InputError, match="kidney_2_0800 is the same image as kidney_1_dense_1225"):
        ablate(kidneys, tmp_path / "out", (0, 1), {"epochs": 1})
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_axes_of_a_small_kidney(kidneys, tmp_path, write_kidney):
    """Every combination is scored, and the scale matters."""
    training = dataclasses.replace(plan((0, 1), TINY)[Run("as shipped", 0)], epochs=2)
    checkpoint = fit(training, kidneys, tmp_path / "out")
    write_kidney(tmp_path / "phantom", depth=5, size=(40, 31))
    rows = validate_shipped([checkpoint], open_volume(tmp_path / "phantom"), (1.0, 1.26))
    assert [row[:2] for row in rows] == [
        [scale, how] for scale in ("1.00", "1.26") for how in ("z", "z, flips", "z, y and x", "z, y and x, flips")
    ]
    assert all(0 <= float(cell) <= 1 for row in rows for cell in row[2:])
