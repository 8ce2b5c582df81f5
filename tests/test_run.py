import pytest

from sennet_kaggle.__main__ import main
from sennet_kaggle.checkpoint import Card, save_checkpoint
from sennet_kaggle.config import Preprocessing
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model
from sennet_kaggle.run import open_run
from sennet_kaggle.submission import write_submission

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


def test_not_a_run(tmp_path, data):
    with pytest.raises(InputError, match="run is not a run: expected submission.csv or checkpoint.safetensors"):
        open_run(tmp_path / "run", data)


def test_command_line_writes_a_page(tmp_path, data, capsys):
    write_submission(tmp_path / "run" / "submission.csv", [(f"k_1_000{z}", "1 1") for z in range(3)])
    assert main(["report", "--run-dir", str(tmp_path / "run"), "--data-dir", str(data)]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "k_1_0002" in page and "report.html" in capsys.readouterr().out
