"""The command line: bad input is one line and exit status 2, and nothing half-written is left."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from input_cases import PREDICT, TRAIN, UNET
from safetensors.torch import save_file

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import Preprocessing
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, read_card, save_checkpoint


@pytest.fixture
def folder(tmp_path, write_kidney, monkeypatch):
    """A working folder with a test kidney, a labelled one and a small checkpoint."""
    write_kidney(tmp_path / "data" / "test" / "kidney_5", labels=False)
    write_kidney(tmp_path / "data" / "train" / "kidney_1")
    card = Card("unet", UNET, Preprocessing(roi_size=32), 0.5)
    save_checkpoint(tmp_path / "small.safetensors", create_model("unet", **UNET), card)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_exit_status_of_the_process(tmp_path):
    command = [sys.executable, "-m", "sennet_kaggle", "validate", "--submission", "s.csv", "--data-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["predcit"])
    assert caught.value.code == 2
    capsys.readouterr()


def test_predict_then_validate(folder, capsys):
    assert main(PREDICT.split()) == 0
    assert main(["validate", "--submission", "out.csv", "--data-dir", "data"]) == 0
    assert "out.csv: valid, 3 rows" in capsys.readouterr().out


def test_predict_closes_with_what_ran_how_long_and_how_much_it_found(folder, capsys):
    assert main(PREDICT.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    beginnings = ["package: ", "model: ", "device: cpu (", "versions: ", "settings: views ", "time: ", "kidney_5: "]
    assert [line.startswith(begin) for line, begin in zip(lines, beginnings, strict=False)] == 7 * [True]
    assert "float32" in lines[2] and "axes z" in lines[4] and "sha256" in lines[0]
    assert re.fullmatch(r"time: [\d.]+ s per slice, 3 in [\d.]+ s; loading took [\d.]+ s", lines[5])
    assert re.fullmatch(r"kidney_5: 3 slices, \d with vessels, vessel \d+\.\d{3} % of all pixels", lines[6])
    assert lines[7:] == ["out.csv: 3 rows; out.json says what made them"]


def test_predict_takes_every_way_of_running_a_model(folder, capsys):
    """A model of windows with neighbours, along three axes, in eight views, rescaled; nothing is left behind."""
    preprocessing = Preprocessing(region="windows", roi_size=32, offsets=(-1, 0, 1))
    card = Card("unet", UNET, preprocessing, 0.5)
    save_checkpoint(folder / "windows.safetensors", create_model("unet", **UNET), card)
    (folder / "scratch").mkdir()
    options = "--axes zyx --tta d4 --average logit --overlap 0.5 --importance constant --sw-batch-size 64 --scale 0.8"
    command = f"{PREDICT} windows.safetensors {options} --scratch-dir scratch --no-skip-background"
    assert main([*command.split(), "--scales", '{"kidney_5": 1.26}', "--save-probability", "kept"]) == 0
    assert main(["validate", "--submission", "out.csv", "--data-dir", "data"]) == 0
    assert "out.csv: valid, 3 rows" in capsys.readouterr().out
    assert np.load("kept/kidney_5.npy").shape == (3, 40, 31)
    assert list((folder / "scratch").iterdir()) == []


def test_scale_auto_is_the_scale_of_the_voxel_sizes(folder, write_kidney, capsys):
    """kidney_6 has voxels of 63.08 um, the checkpoint's kidney 50; kidney_5 stays as it is, and a line says so."""
    write_kidney(folder / "data" / "test" / "kidney_6", labels=False)
    card = Card("unet", UNET, Preprocessing(region="windows", roi_size=32), 0.5, ("kidney_1_dense_0000",))
    save_checkpoint(folder / "small.safetensors", create_model("unet", **UNET), card)
    assert main([*PREDICT.split(), "--scales", '{"kidney_6": 1.2616}']) == 0
    expected = (folder / "out.csv").read_bytes()
    capsys.readouterr()
    assert main([*PREDICT.split(), "--scale", "auto"]) == 0
    assert (folder / "out.csv").read_bytes() == expected
    assert "kidney_6: voxels of 63.08 µm, those learned from have 50 µm: scale 1.262" in capsys.readouterr().err
    recorded = json.loads((folder / "out.json").read_text())["settings"]["inference"]
    assert recorded["scale"] == 1 and recorded["scales"] == {"kidney_6": pytest.approx(1.2616)}


def test_train_then_predict(folder, capsys):
    """The small loop end to end: a checkpoint that names its slices and predicts."""
    settings = ["--model-arguments", json.dumps(UNET), "--roi-size", "32", "--epochs", "2", "--evaluate-every", "1"]
    assert main([*TRAIN.split(), *settings]) == 0
    card = read_card("out/checkpoint.safetensors")
    assert card.trained_on == ("kidney_1_0001", "kidney_1_0002")
    assert card.model_arguments == {"in_channels": 3, **UNET}
    assert card.training["epochs"] == 2 and 0 <= card.scores["held_out_dice_pooled"] <= 1
    assert (folder / "out" / "metrics.csv").read_text().count("\n") == 3
    assert main("predict --data-dir data --output out.csv --checkpoint out/checkpoint.safetensors".split()) == 0
    capsys.readouterr()


def test_quiet_leaves_results_and_warnings(folder, capsys):
    command = [*PREDICT.split(), "--scales", '{"elsewhere": 2}']
    assert main(command) == 0
    usual = capsys.readouterr()
    assert main(["--quiet", *command]) == 0
    quiet = capsys.readouterr()
    assert quiet.out.splitlines()[-1] == usual.out.splitlines()[-1] != ""  # others have the time that it took
    assert "segmenting" in usual.err
    assert [line.partition(",")[0] for line in quiet.err.splitlines()] == ["warning: scales has elsewhere"]
    assert main(["validate", "--quiet", "--submission", "nowhere.csv", "--data-dir", "data"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_verbose_has_details_and_tracebacks(folder, capsys):
    assert main([*PREDICT.split(), "--verbose"]) == 0
    err = capsys.readouterr().err
    assert "parameters, on cpu in float32" in err and "become 0 to 1" in err
    validate = ["validate", "--submission", "nowhere.csv", "--data-dir", "data"]
    assert main([*validate, "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(validate) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_quiet_and_verbose_exclude_each_other(capsys):
    assert main(["experiments", "--quiet", "--verbose"]) == 2
    assert "--verbose and --quiet are opposites" in capsys.readouterr().err


def test_training_without_held_out_slices_keeps_the_last_epoch(folder, capsys):
    settings = ["--model-arguments", json.dumps(UNET), "--roi-size", "32", "--epochs", "2", "--no-augment"]
    assert main([*TRAIN.replace("--held-out-slices kidney_1_0000", "--held-out-slices").split(), *settings]) == 0
    card = read_card("out/checkpoint.safetensors")
    assert len(card.trained_on) == 3 and card.scores["epoch"] == 2 and card.threshold == 0.5
    capsys.readouterr()


def test_phantom_writes_the_competitions_layout(tmp_path, capsys):
    assert main(["phantom", str(tmp_path), "--shape", "2", "64", "70", "--name", "kidney_9", "--seed", "4"]) == 0
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tif"))
    assert names == [f"train/kidney_9/{kind}/000{z}.tif" for kind in ("images", "labels") for z in (0, 1)]
    capsys.readouterr()


def test_help_needs_no_heavy_library():
    program = (
        "import sys; from sennet_kaggle.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print([m for m in ('torch', 'transformers', 'pandas', 'cv2') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.endswith("[]\n")


def test_the_kernel_needs_no_library_of_tables_or_pictures_to_start():
    program = (
        "import sys, sennet_kaggle.kernel\n"
        "print([m for m in ('pandas', 'matplotlib', 'transformers', 'timm', 'skimage') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_stats(folder, capsys):
    assert main(["stats", "--data-dir", "data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["kidney_1", "all"]


def test_model_arguments_are_json(folder):
    weights_path = folder / "weights.safetensors"
    save_file(create_model("segformer", variant="b0").network.state_dict(), weights_path)
    arguments = ["--model", "segformer", "--weights-path", str(weights_path), "--output", "packed.safetensors"]
    assert main(["pack", *arguments, "--model-arguments", '{"variant": "b0"}']) == 0
    assert read_card(folder / "packed.safetensors").model_arguments == {"variant": "b0"}


def test_what_pretrained_weights_gave_is_said(folder, capfd):
    """The encoder of a published SegFormer, by local path: what was loaded, and what is fresh."""
    small = {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
    encoder = create_model("segformer", **small).network.segformer.state_dict()
    save_file(encoder, folder / "mit.safetensors")
    command = "train segformer-bce --data-dir data --output-dir out --train-volumes kidney_1 --epochs 1 --roi-size 32"
    extra = ["--workers", "0", "--weights-path", "mit.safetensors", "--model-arguments", json.dumps(small)]
    assert main([*command.split(), *extra]) == 0
    error = capfd.readouterr().err
    assert f"mit.safetensors: {len(encoder)} tensors loaded" in error and "left fresh: decode_head." in error
