import numpy as np
import pandas as pd
import pytest
from conftest import write_tiff

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import Preprocessing
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.inference.probability import open_probabilities, save_probability
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.scoring.score_csv import score_submission
from sennet_kaggle.scoring.sweep import METRICS, find_plateau, sweep_thresholds, write_sweep
from sennet_kaggle.submission.rle import rle_encode
from sennet_kaggle.submission.submission import write_submission

THRESHOLDS = (0.2, 0.5, 0.8)


@pytest.fixture
def kidney(tmp_path, write_kidney):
    """A labelled kidney and a probability that leans to its label, in whole levels of 255."""
    _, masks = write_kidney(tmp_path / "train" / "k", depth=4)
    rng = np.random.default_rng(1)
    levels = np.where(masks, rng.integers(60, 256, masks.shape), rng.integers(0, 190, masks.shape))
    volume = open_volume(tmp_path / "train" / "k")
    return volume, masks, (levels / 255).astype(np.float32)


def keep(folder, volume, probabilities):
    return list(save_probability(folder, volume, zip(volume.slice_ids, probabilities, strict=True)))


def test_probabilities_pass_through_and_come_back(tmp_path, kidney):
    volume, _, probabilities = kidney
    passed = keep(tmp_path / "p", volume, probabilities)
    assert all(np.array_equal(a[1], b) for a, b in zip(passed, probabilities, strict=True))
    (opened,) = open_probabilities(tmp_path / "p")
    assert opened.name == "k" and opened.slice_ids == volume.slice_ids
    assert isinstance(opened.levels, np.memmap)
    np.testing.assert_allclose(opened.levels / 255, probabilities, atol=1e-6)


def test_an_interrupted_prediction_keeps_nothing(tmp_path, kidney):
    volume, _, probabilities = kidney
    stream = save_probability(tmp_path / "p", volume, zip(volume.slice_ids, probabilities, strict=True))
    next(stream)
    stream.close()
    assert list((tmp_path / "p").iterdir()) == []


def test_sweep_equals_scoring_each_threshold(tmp_path, kidney):
    volume, _, probabilities = kidney
    keep(tmp_path / "p", volume, probabilities)
    table = sweep_thresholds(tmp_path / "p", tmp_path / "train", THRESHOLDS)
    assert list(table.columns) == ["threshold", *METRICS[:-1]]  # clDice on demand only
    assert table["threshold"].tolist() == list(THRESHOLDS)
    for row in table.itertuples():
        cut = np.rint(probabilities * 255) > row.threshold * 255  # in the levels that are kept
        write_submission(tmp_path / "s.csv", zip(volume.slice_ids, map(rle_encode, cut), strict=True))
        scores = score_submission(tmp_path / "s.csv", tmp_path / "train").kidneys["k"]
        for metric in METRICS[:-1]:
            assert getattr(row, metric) == getattr(scores, metric), metric


def test_labels_of_slices_that_are_far_apart(tmp_path, kidney):
    """Two of the four slices have labels: no Surface Dice in 3D, and no plateau of it."""
    volume, _, probabilities = kidney
    keep(tmp_path / "p", volume, probabilities)
    for z in (1, 3):
        (tmp_path / "train" / "k" / "labels" / f"{z:04d}.tif").unlink()
    with pytest.raises(InputError, match="surface_dice needs .* k has none: choose --metric surface_dice_2d_1px"):
        write_sweep(tmp_path / "p", tmp_path / "train", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    said = write_sweep(tmp_path / "p", tmp_path / "train", tmp_path / "out", "surface_dice_2d_1px")
    assert "k: surface_dice cannot be compared with the leaderboard: no two of the 2" in said
    assert "surface_dice" not in pd.read_csv(tmp_path / "out" / "sweep.csv").columns


def test_slices_that_were_learned_from_are_said(tmp_path, monkeypatch, write_kidney, caplog):
    """Of those that are scored: 0002 has no label."""
    write_kidney(tmp_path / "train" / "k")
    (tmp_path / "train" / "k" / "labels" / "0002.tif").unlink()
    arguments = {"widths": [4, 8], "bottleneck": 8}
    card = Card("unet", arguments, Preprocessing(roi_size=32), 0.5, trained_on=("k_0001", "k_0002"))
    monkeypatch.chdir(tmp_path)
    save_checkpoint("small.safetensors", create_model("unet", **arguments), card)
    command = "predict --data-dir . --volume k --output s.csv --checkpoint small.safetensors --save-probability p"
    assert main(command.split()) == 0
    caplog.clear()
    sweep_thresholds("p", "train", THRESHOLDS)
    assert "1 of 2 slices were learned from by the model (k_0001)" in caplog.text


def test_a_csv_as_truth_needs_no_size(tmp_path, kidney):
    """The probabilities are as large as the masks."""
    volume, masks, probabilities = kidney
    keep(tmp_path / "p", volume, probabilities)
    write_submission(tmp_path / "t.csv", zip(volume.slice_ids, map(rle_encode, masks), strict=True))
    by_csv, by_labels = (sweep_thresholds(tmp_path / "p", tmp_path / truth, THRESHOLDS) for truth in ("t.csv", "train"))
    pd.testing.assert_frame_equal(by_csv, by_labels)


@pytest.mark.parametrize(
    ("scores", "plateau"),
    [
        pytest.param([0.1, 0.5, 0.6, 0.605, 0.6, 0.2, 0.1], (0.3, 0.5, 0.4), id="in the middle"),
        pytest.param([0.9, 0.895, 0.5, 0.4, 0.3, 0.2, 0.1], (0.1, 0.2, 0.1), id="at the start"),
        pytest.param([0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 0.9], (0.7, 0.7, 0.7), id="a peak at the end"),
        pytest.param([0.5] * 7, (0.1, 0.7, 0.4), id="flat"),
        pytest.param([0.9, 0.1, 0.1, 0.895, 0.1, 0.1, 0.1], (0.1, 0.1, 0.1), id="another hill is not part of it"),
    ],
)
def test_plateau(scores, plateau):
    thresholds = [round(0.1 * step, 1) for step in range(1, 8)]
    assert find_plateau(thresholds, scores) == plateau


def test_errors(tmp_path, kidney):
    volume, _, probabilities = kidney
    with pytest.raises(InputError, match="has no probabilities: make some with predict --save-probability"):
        open_probabilities(tmp_path / "p")
    keep(tmp_path / "p", volume, probabilities)
    with pytest.raises(InputError, match="thresholds must ascend"):
        sweep_thresholds(tmp_path / "p", tmp_path, (0.5, 0.2))
    write_tiff(tmp_path / "other" / "m" / "labels" / "0000.tif", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="other has no label of k: expected labels of the same kidneys, found m"):
        sweep_thresholds(tmp_path / "p", tmp_path / "other", THRESHOLDS)
    (tmp_path / "p" / "k.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="k.npy cannot be read as probabilities"):
        open_probabilities(tmp_path / "p")


def test_command_line_from_model_to_picture(tmp_path, kidney, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = {"widths": [4, 8], "bottleneck": 8}
    card = Card("unet", arguments, Preprocessing(roi_size=32), 0.5)
    save_checkpoint("small.safetensors", create_model("unet", **arguments), card)
    command = "predict --data-dir . --volume k --output s.csv --checkpoint small.safetensors --save-probability p"
    assert main(command.split()) == 0
    assert main("sweep --probability p --labels train --output-dir out".split()) == 0
    assert "surface_dice stays within" in capsys.readouterr().out
    table = pd.read_csv("out/sweep.csv")
    assert len(table) == 19 and set(METRICS[:-1]) < set(table.columns)
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    # The checkpoint's own threshold is on the grid, so the sweep's row is the submission's score.
    scores = score_submission("s.csv", "train").kidneys["k"]
    at_half = table[table["threshold"] == 0.5].iloc[0]
    assert at_half["dice_pooled"] == pytest.approx(scores.dice_pooled, abs=0.02)
    assert main("sweep --probability p --labels train --output-dir out --metric f1".split()) == 2
    assert "unknown metric 'f1': choose one of" in capsys.readouterr().err
