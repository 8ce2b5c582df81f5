import numpy as np
import pytest
import torch
from conftest import write_tiff

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import DEFAULT_INFERENCE, Preprocessing
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.inference.loading import load_predictors
from sennet_kaggle.inference.predict import predict_masks, predict_rows
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.reports import run as module
from sennet_kaggle.reports.run import open_run
from sennet_kaggle.submission.provenance import hash_file
from sennet_kaggle.submission.rle import rle_encode
from sennet_kaggle.submission.submission import write_submission

UNET = {"widths": [4, 8], "bottleneck": 8}


@pytest.fixture
def data(tmp_path, write_kidney):
    write_kidney(tmp_path / "data" / "train" / "k_1")
    write_kidney(tmp_path / "data" / "train" / "k_2")
    (tmp_path / "run").mkdir()
    return tmp_path / "data"


def test_a_prediction(tmp_path, data):
    write_submission(tmp_path / "run" / "submission.csv", [(f"k_2_000{z}", "1 1") for z in range(3)])
    (tmp_path / "run" / "sweep.csv").write_text("threshold,surface_dice\n0.4,0.7\n0.5,0.7\n0.6,0.5\n")
    run = open_run(tmp_path / "run", data)
    assert [volume.name for volume in run.volumes] == ["k_2"]
    assert run.rles["k_2_0001"] == "1 1"
    assert run.history is None and run.sweep["surface_dice"].tolist() == [0.7, 0.7, 0.5]
    assert run.sweep.attrs == {"plateau_low": 0.4, "plateau_high": 0.5}


def test_a_sweep_of_slices_that_are_far_apart_has_the_plateau_of_2d(tmp_path, data):
    write_submission(tmp_path / "run" / "submission.csv", [(f"k_2_000{z}", "1 1") for z in range(3)])
    (tmp_path / "run" / "sweep.csv").write_text("threshold,surface_dice_2d_1px\n0.4,0.7\n0.5,0.7\n0.6,0.5\n")
    assert open_run(tmp_path / "run", data).sweep.attrs == {"plateau_low": 0.4, "plateau_high": 0.5}


def test_a_training_run_is_segmented_first(tmp_path, data):
    card = Card("unet", UNET, Preprocessing(roi_size=32), 0.5, trained_on=("k_1_0000", "k_1_0002"))
    save_checkpoint(tmp_path / "run" / "checkpoint.safetensors", create_model("unet", **UNET), card)
    (tmp_path / "run" / "metrics.csv").write_text("epoch,loss,held_out_dice\n1,0.5,\n2,0.4,0.6\n")
    run = open_run(tmp_path / "run", data)
    assert [volume.name for volume in run.volumes] == ["k_1"]
    assert set(run.rles) == {"k_1_0000", "k_1_0001", "k_1_0002"}
    assert run.history["epoch"].tolist() == [1, 2]


def checkpoint_of(seed, run_dir, epoch=2, **card):
    torch.manual_seed(seed)
    card = {"trained_on": ("k_1_0000", "k_1_0002"), "scores": {"epoch": epoch, "held_out_dice_pooled": 0.6}} | card
    preprocessing = Preprocessing(roi_size=32, mean=(0.5,), std=(0.1,))
    arguments = {**UNET, "in_channels": 1}
    save_checkpoint(
        run_dir / "checkpoint.safetensors",
        create_model("unet", **arguments),
        Card("unet", arguments, preprocessing, 0.5, **card),
    )
    return run_dir / "checkpoint.safetensors"


def masks_of(path, data, kidney="k_1"):
    """What predict makes of a kidney by default."""
    volume = open_volume(data / "train" / kidney)
    predictors = load_predictors([path], DEFAULT_INFERENCE)
    return {slice_id: rle_encode(mask) for slice_id, mask in predict_masks(volume, predictors, DEFAULT_INFERENCE)}


def test_masks_are_those_of_predict_and_follow_the_checkpoint(tmp_path, data, caplog):
    run_dir = tmp_path / "run"
    first = checkpoint_of(1, run_dir)
    kept = open_run(run_dir, data)
    assert kept.rles == masks_of(first, data) and not caplog.messages[1:]
    assert f"checkpoint.safetensors ({hash_file(first)[:12]}); views flips, axes z" in kept.notes[0]
    assert kept.notes[1] == "Images: k_1, of which 2 of 3 slices were learned from."
    second = checkpoint_of(2, run_dir)
    caplog.clear()
    anew = open_run(run_dir, data)
    assert anew.rles == masks_of(second, data) != kept.rles
    assert any("segmented anew" in message for message in caplog.messages)


def test_masks_are_kept_as_long_as_nothing_changes(tmp_path, data, monkeypatch):
    """Neither a second look nor another kidney segments a kidney again; changed images do."""
    segmented = []

    def watched(volumes, *arguments):
        segmented.append([volume.name for volume in volumes])
        return predict_rows(volumes, *arguments)

    monkeypatch.setattr(module, "predict_rows", watched)
    checkpoint_of(1, tmp_path / "run")
    for names in ((), (), ("k_2",), ("k_1", "k_2"), ()):
        run = open_run(tmp_path / "run", data, names)
        assert tuple(volume.name for volume in run.volumes) == (names or ("k_1",))
    assert segmented == [["k_1"], ["k_2"]]
    write_tiff(data / "train" / "k_1" / "images" / "0001.tif", np.full((40, 31), 7, np.uint16))
    open_run(tmp_path / "run", data)
    assert segmented[2:] == [["k_1"]]


def test_a_submission_from_elsewhere_is_never_written_to(tmp_path, data, caplog):
    submission_path = tmp_path / "run" / "submission.csv"
    write_submission(submission_path, [(f"k_2_000{z}", "1 1") for z in range(3)])
    before = submission_path.read_bytes()
    checkpoint_of(1, tmp_path / "run")
    run = open_run(tmp_path / "run", data)
    assert "nothing says what made it" in run.notes[0] and "nothing says what made" in caplog.text
    assert submission_path.read_bytes() == before and not submission_path.with_suffix(".json").exists()
    with pytest.raises(InputError, match="submission.csv has no mask of k_1: expected one of k_2, or predict it first"):
        open_run(tmp_path / "run", data, ("k_1",))


def test_masks_that_were_changed_by_hand_are_no_longer_the_checkpoints(tmp_path, data):
    checkpoint_of(1, tmp_path / "run")
    open_run(tmp_path / "run", data)
    write_submission(tmp_path / "run" / "submission.csv", [(f"k_1_000{z}", "1 1") for z in range(3)])
    run = open_run(tmp_path / "run", data)
    assert run.rles["k_1_0000"] == "1 1" and "nothing says what made it" in run.notes[0]


@pytest.mark.parametrize(
    ("epoch", "note"),
    [(2, "metrics.csv, of checkpoint"), (1, "metrics.csv, which is of another run, not of checkpoint")],
)
def test_curves_are_those_of_the_checkpoint_or_it_is_said(tmp_path, data, epoch, note):
    checkpoint_of(1, tmp_path / "run", epoch)
    (tmp_path / "run" / "metrics.csv").write_text("epoch,loss,held_out_dice\n1,0.5,\n2,0.4,0.6\n3,0.4,0.5\n")
    assert note in open_run(tmp_path / "run", data).notes[-1]


def test_curves_without_a_checkpoint_or_of_one_without_an_epoch(tmp_path, data):
    run_dir = tmp_path / "run"
    (run_dir / "metrics.csv").write_text("epoch,loss,held_out_dice\n1,0.5,\n2,0.4,0.6\n")
    write_submission(run_dir / "submission.csv", [(f"k_2_000{z}", "1 1") for z in range(3)])
    assert "nothing says of which model they are" in open_run(run_dir, data).notes[-1]
    checkpoint_of(1, run_dir, scores={})
    assert "does not say of which epoch it is" in open_run(run_dir, data).notes[-1]


def test_slices_whose_names_hold_an_underscore(tmp_path, data):
    """k_1_slice_0000 is of the folder k_1, as a submission's row and in a checkpoint's card."""
    for path in [*(data / "train" / "k_1").glob("*/*.tif")]:
        path.rename(path.with_name(f"slice_{path.name}"))
    checkpoint_of(1, tmp_path / "run", trained_on=("k_1_slice_0000", "k_1_slice_0002"))
    for _ in range(2):
        assert [volume.name for volume in open_run(tmp_path / "run", data).volumes] == ["k_1"]
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    run = open_run(tmp_path / "run", data)
    assert [volume.name for volume in run.volumes] == ["k_1"] and "k_1_slice_0001" in run.rles


def test_the_plateau_is_that_of_numbers_in_ascending_order(tmp_path, data):
    write_submission(tmp_path / "run" / "submission.csv", [(f"k_2_000{z}", "1 1") for z in range(3)])
    (tmp_path / "run" / "sweep.csv").write_text("threshold,dice_pooled\n0.6,0.7\n0.4,0.3\n0.5,0.7\n0.7,nothing\n")
    run = open_run(tmp_path / "run", data)
    assert run.sweep.attrs == {"plateau_low": 0.5, "plateau_high": 0.6}
    assert run.notes[-1].endswith("; plateau of dice_pooled.")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", b"", "metrics.csv cannot be read as a csv .No columns to parse from file."),
        ("metrics.csv", b"\xff\xfe\0a", "metrics.csv cannot be read as a csv"),
        ("metrics.csv", b"epoch;loss\n1;2\n", "must have the columns epoch, loss, held_out_dice, found epoch;loss"),
        ("sweep.csv", b"a\n1\n", "must have the columns threshold, found a"),
        ("sweep.csv", b"threshold,surface_dice\n", "must have numbers in threshold and one of surface_dice, "),
        ("sweep.csv", b"threshold,a\n0.5,1\n", "must have numbers in threshold and one of surface_dice, "),
    ],
    ids=["empty", "binary", "semicolons", "no threshold", "header alone", "no metric"],
)
def test_tables_are_looked_at_before_a_kidney_is_segmented(tmp_path, data, name, content, message):
    checkpoint_of(1, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_run(tmp_path / "run", data)
    assert not (tmp_path / "run" / "submission.csv").exists()


def test_not_a_run(tmp_path, data):
    with pytest.raises(InputError, match="run is not a run: expected submission.csv or checkpoint.safetensors"):
        open_run(tmp_path / "run", data)


def test_command_line_writes_a_page(tmp_path, data, capsys):
    write_submission(tmp_path / "run" / "submission.csv", [(f"k_1_000{z}", "1 1") for z in range(3)])
    assert main(["report", "--run-dir", str(tmp_path / "run"), "--data-dir", str(data)]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "k_1_0002" in page and "report.html" in capsys.readouterr().out
    assert "<p>Masks: submission.csv; nothing says what made it or how.</p>" in page
