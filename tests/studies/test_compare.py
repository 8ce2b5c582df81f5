"""The report's experiments by name, and their comparison on tiny kidneys."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import watched

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import DEFAULT_INFERENCE, Preprocessing
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.inference.loading import load_predictors
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.reports import card as card_module
from sennet_kaggle.reports.report import SegmentedSlice, spread
from sennet_kaggle.studies.compare import REPORT_EXPERIMENTS, Result, compare, per_run, validate_on, write_up
from sennet_kaggle.studies.experiments import EXPERIMENTS, NATIVE_EXPERIMENTS, RECIPE, format_experiments
from sennet_kaggle.studies.plan import plan
from sennet_kaggle.training.train import fit

SMALL = {
    "*": {
        "train_volumes": ["a"],
        "epochs": 2,
        "milestones": [1],
        "workers": 0,
        "preprocessing": {"roi_size": 32},
        "learning_rate": 0.01,
    },
    "unet-*": {"model_arguments": {"widths": [4, 8], "bottleneck": 8}},
    "segformer-*": {
        "model_arguments": {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
    },
}


SMALL_UNET = {name: SMALL[name] for name in ("*", "unet-*")}


@pytest.fixture
def kidneys(tmp_path, write_kidney):
    write_kidney(tmp_path / "data" / "train" / "a", depth=5, size=(50, 40))
    write_kidney(tmp_path / "data" / "train" / "b", depth=2, size=(44, 61))
    return tmp_path / "data"


def test_the_experiments_of_the_report():
    """Tables 1 to 4 and section 5: optimizer, rate, batch, epochs, loss."""
    unet = {"optimizer": "adam", "learning_rate": 1e-4, "batch_size": 16}
    segformer = {"optimizer": "adamw", "learning_rate": 6e-6, "batch_size": 8, "epochs": 60, "gamma": 0.1}
    segformer |= {"schedule": "multi_step", "milestones": (20, 40), "model": "segformer"}
    expected = {
        "unet-bce": {**unet, "loss": "bce", "epochs": 12},
        "unet-dice-bce": {**unet, "loss": "dice_bce", "epochs": 8, "schedule": "step", "gamma": 0.95},
        "segformer-bce": {**segformer, "loss": "bce"},
        "segformer-weighted-bce": {**segformer, "loss": "weighted_bce", "loss_arguments": {"pos_weight": 50.0}},
        "segformer-ce-dice": {**segformer, "loss": "ce_dice"},
        "segformer-ignore-background": {**segformer, "loss": "ignore_background_bce"},
    }
    assert set(expected) == set(REPORT_EXPERIMENTS)
    for name, settings in expected.items():
        training = dataclasses.asdict(EXPERIMENTS[name])
        assert settings.items() <= training.items(), name
        assert EXPERIMENTS[name].preprocessing == Preprocessing(intensity="eight_bit", roi_size=512)
        assert EXPERIMENTS[name].held_out_fraction == 0.2 and not EXPERIMENTS[name].augment


def test_the_list(capsys):
    assert main(["experiments"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1:-3]]
    assert names == [*REPORT_EXPERIMENTS, "sam-zero-shot", "sam-finetuned", *NATIVE_EXPERIMENTS, *RECIPE]
    words = lines[4].split("  ")
    assert [word.strip() for word in words if word.strip()] == [
        *("segformer-weighted-bce", "segformer", "weighted_bce 50", "adamw", "6e-06", "times 0.1 at 20 and 40"),
        *("8", "60", "8 bit, 512"),
    ]
    assert format_experiments().splitlines() == lines


@pytest.mark.slow
def test_comparison(kidneys, tmp_path, capsys):
    chosen = {"experiments": ("unet-bce", "segformer-ce-dice"), "test_volume": "b", "seeds": (0, 1), "overrides": SMALL}
    path = compare(kidneys, tmp_path / "out", **chosen)
    text = path.read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows[2:]] == ["unet-bce", "segformer-ce-dice"]
    assert rows[0][7:11] == ["b_0000", "b_0001", "mean", "pooled"]
    assert rows[2][11] == "0.45" and rows[3][11] == ""  # the report's own
    assert all("±" in cell for cell in rows[2][7:11])
    assert "Changed for `*`" in text and "Seeds: 0, 1" in text
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert len(table) == 4 and {"mean", "pooled", "seconds_per_epoch"} < {*table}
    assert f"{table['pooled'][:2].mean():.3f}" in rows[2][10]
    for picture in ("curves.png", "predictions.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")
    # Called again it finds all runs finished, and writes the same table.
    capsys.readouterr()
    compare(kidneys, tmp_path / "out", **chosen)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "results.csv"), table)


def test_overrides():
    plans = dict(plan(["unet-bce", "segformer-bce"], (7,), {"*": {"epochs": 3}, "unet-*": {"epochs": 4}}, "kidney_2"))
    assert (plans["unet-bce"].epochs, plans["segformer-bce"].epochs) == (4, 3)
    assert plans["unet-bce"].seed == 7
    changed = {"unet-bce": {"preprocessing": {"mean": [0.5], "std": [0.1]}}}
    ((_, training),) = plan(["unet-bce"], (0,), changed, "kidney_2")
    assert training.preprocessing.mean == (0.5,) and training.preprocessing.intensity == "eight_bit"


@pytest.mark.parametrize(
    ("experiments", "overrides", "test_volume", "message"),
    [
        (["unet"], {}, "kidney_2", "unknown experiment 'unet': choose among unet-bce, "),
        (["unet-bce"], {"sam*": {}}, "kidney_2", r"override 'sam\*' is of no chosen experiment: unet-bce"),
        (
            ["unet-bce"],
            {"*": {"lr": 1}},
            "kidney_2",
            r"override '\*' has the unknown setting 'lr': choose among model, ",
        ),
        (["unet-bce"], {"*": 3}, "kidney_2", r"override '\*' must be a mapping of settings, got 3"),
        (["unet-bce"], {"*": {"preprocessing": {"size": 1}}}, "kidney_2", "unknown setting 'size'"),
        (["sam-zero-shot"], {}, "kidney_2", "nothing to train among sam-zero-shot: sam-zero-shot alone has its own"),
        (["unet-bce"], {}, "kidney_1_dense", "kidney_1_dense is the test, but unet-bce learns or chooses on"),
        (["unet-bce"], {"*": {"held_out_slices": ["k_1"]}}, "k", "k is the test, but unet-bce learns or chooses on"),
    ],
)
def test_bad_comparisons(experiments, overrides, test_volume, message):
    with pytest.raises(InputError, match=message):
        plan(experiments, (0,), overrides, test_volume)


def test_missing_weights_are_found_before_the_training(kidneys, tmp_path):
    with pytest.raises(InputError, match="Segment Anything's weights are missing"):
        compare(
            kidneys, tmp_path / "out", experiments=("unet-bce", "sam-zero-shot"), test_volume="b", overrides=SMALL_UNET
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"unet-dice-bce": {"learning_rate": float("nan")}}, "unet-dice-bce: learning_rate must hold finite numbers"),
        ({"unet-dice-bce": {"model_arguments": {"widths": [0]}}}, "unet-dice-bce: unet: in_channels, widths"),
        ({"unet-dice-bce": {"train_volumes": ["c"]}}, "unet-dice-bce: .*train has no kidney c"),
        ({"unet-dice-bce": {"held_out_fraction": 0.99, "train_volumes": "a"}}, r"train_volumes must be tuple\[str\]"),
        (
            {"unet-dice-bce": {"model": "segformer", "weights_path": "no.pth", "model_arguments": {}}},
            "no.pth are missing",
        ),
        ({"unet-dice-bce": {"init_from": "no.safetensors"}}, "unet-dice-bce: checkpoint no.safetensors is missing"),
        ({"unet-dice-bce": {"pseudo_label_dir": "no"}}, "unet-dice-bce: no has no probabilities"),
        ({"*": {"seed": 3}}, "has seed, which is an option of its own"),
    ],
)
def test_every_variant_is_checked_before_the_first_training(kidneys, tmp_path, monkeypatch, overrides, message):
    monkeypatch.setattr("sennet_kaggle.studies.compare.fit", None)
    with pytest.raises(InputError, match=message):
        compare(
            kidneys,
            tmp_path / "out",
            experiments=("unet-bce", "unet-dice-bce"),
            test_volume="b",
            overrides={**SMALL_UNET, **overrides},
        )
    assert not (tmp_path / "out").exists()


def test_the_test_is_labelled_and_not_learned_from(kidneys, tmp_path, write_kidney):
    small = {"experiments": ("unet-bce",), "test_volume": "b"}
    on_b = dataclasses.replace(
        plan(["unet-bce"], (0,), {"*": {**SMALL["*"], **SMALL["unet-*"]}}, "x")[0][1], train_volumes=("b",), epochs=1
    )
    start = fit(on_b, kidneys, tmp_path / "on-b")
    overrides = {**SMALL_UNET, "unet-bce": {"init_from": str(start)}}
    with pytest.raises(InputError, match="unet-bce: b_000[01] is of the test, but it has been learned from"):
        compare(kidneys, tmp_path / "out", overrides=overrides, **small)
    for label in (kidneys / "train" / "b" / "labels").iterdir():
        label.unlink()
    with pytest.raises(InputError, match="b is the test, but none of its 2 slices has a label: choose another"):
        compare(kidneys, tmp_path / "out", overrides=SMALL_UNET, **small)


def test_old_numbers_do_not_stand_under_new_data(kidneys, tmp_path, write_kidney):
    chosen = {"experiments": ("unet-bce",), "test_volume": "b", "overrides": SMALL_UNET}
    compare(kidneys, tmp_path / "out", **chosen)
    before = (tmp_path / "out" / "results.csv").read_text()
    write_kidney(kidneys / "train" / "a", depth=5, size=(44, 40))
    with pytest.raises(InputError, match="seed-0 holds a run with other data: the image or label of a_000"):
        compare(kidneys, tmp_path / "out", **chosen)
    assert (tmp_path / "out" / "results.csv").read_text() == before


@pytest.mark.parametrize("change", [{"learning_rate": 0.5}, None], ids=["other settings", "checkpoint missing"])
def test_what_earlier_runs_left_is_checked_before_the_first_training(kidneys, tmp_path, monkeypatch, change):
    chosen = {"experiments": ("unet-bce", "unet-dice-bce"), "test_volume": "b"}
    compare(kidneys, tmp_path / "out", overrides=SMALL_UNET, **chosen)
    shutil.rmtree(tmp_path / "out" / "unet-bce")
    if change is None:
        (tmp_path / "out" / "unet-dice-bce" / "seed-0" / "checkpoint.safetensors").unlink()
    monkeypatch.setattr("sennet_kaggle.studies.compare.fit", None)
    with pytest.raises(InputError, match="unet-dice-bce: .*seed-0 holds a run w"):
        compare(kidneys, tmp_path / "out", overrides={**SMALL_UNET, "unet-dice-bce": change or {}}, **chosen)


def test_few_slices_are_held_however_many_there_are(tmp_path, write_kidney):
    """Images, labels and masks of a long kidney are let go; the pictures show some from its first to its last slice."""
    arguments = {"widths": [4], "bottleneck": 4, "in_channels": 1}
    card = Card("unet", arguments, Preprocessing(roi_size=32, mean=(0.5,), std=(0.1,)), 0.5, trained_on=("a_0000",))
    save_checkpoint(tmp_path / "c.safetensors", create_model("unet", **arguments), card)
    (tmp_path / "metrics.csv").write_text("epoch,loss,held_out_dice,seconds\n1,1,0.5,1\n")
    most = {}
    for depth in (20, 44):  # 16 are sampled at once
        write_kidney(tmp_path / f"k{depth}", depth=depth, size=(20, 20))
        volume = watched(open_volume(tmp_path / f"k{depth}"))
        result = validate_on(volume, tmp_path / "c.safetensors", tmp_path, EXPERIMENTS["unet-bce"])
        assert [*result.counts] == volume.slice_ids
        assert [one.slice_id for one in result.drawn] == spread(volume.slice_ids)
        assert (result.drawn[0].slice_id, result.drawn[-1].slice_id) == (volume.slice_ids[0], volume.slice_ids[-1])
        del result
        most[depth], volume.alive["most"] = volume.alive["most"], 0
        (predictor,) = load_predictors([tmp_path / "c.safetensors"], DEFAULT_INFERENCE)
        assert len(card_module.validate(volume, range(depth), [predictor]).dice) == depth
        most[depth, "card"], volume.alive["most"] = volume.alive["most"], 0
    assert most[44] <= most[20] + 2 and most[44, "card"] <= most[20, "card"] + 2, most


def test_a_long_table_has_columns_for_what_is_drawn(tmp_path, write_kidney):
    drawn = [SegmentedSlice(f"k_{z:04d}", *np.zeros((3, 2, 2), bool)) for z in (0, 10, 19)]
    history = pd.DataFrame({"epoch": [1], "loss": [1.0], "held_out_dice": [0.5], "seconds": [1.0]})
    counts = {f"k_{z:04d}": (2, 2, z % 3) for z in range(20)}
    card = Card("unet", {}, Preprocessing(), 0.5)
    result = Result(EXPERIMENTS["unet-bce"], 3, 9, history, 0.5, card, "c.safetensors (abc)", counts, drawn)
    lines = write_up({"unet-bce": [result]}, None, "k, which no run has seen", {}).splitlines()
    assert lines[0].split(" | ")[7:12] == ["k_0000", "k_0010", "k_0019", "mean", "pooled"]
    assert lines[2].split(" | ")[7:11] == ["0.000", "0.500", "0.500", "0.475"]
    assert "over all 20 labelled slices" in lines[4] and "views flips, axes z, average probability" in lines[5]
    assert "unet-bce c.safetensors (abc)" in lines[6]
    assert len(per_run({"unet-bce": [result]}).filter(like="k_").columns) == 20


def test_a_test_that_shares_images_is_found_before_the_training(kidneys, tmp_path):
    shutil.copytree(kidneys / "train" / "a", kidneys / "train" / "b2")
    with pytest.raises(InputError, match=r"b2_0000 is the same image as a_0000 \(5 of 5 such slices\)"):
        compare(kidneys, tmp_path / "out", experiments=("unet-bce",), test_volume="b2", overrides=SMALL_UNET)
    assert not (tmp_path / "out").exists()
