"""The command line: bad input is one line and exit status 2, and nothing half-written is left."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, write_tiff
from safetensors.torch import save_file

from sennet_kaggle.__main__ import main
from sennet_kaggle.checkpoint import Card, read_card, save_checkpoint
from sennet_kaggle.config import Preprocessing
from sennet_kaggle.models import create_model

UNET = {"widths": [4, 8], "bottleneck": 8}


@pytest.fixture
def folder(tmp_path, write_kidney, monkeypatch):
    """A working folder with a test kidney, a labelled one and a small checkpoint."""
    write_kidney(tmp_path / "data" / "test" / "kidney_5", labels=False)
    write_kidney(tmp_path / "data" / "train" / "kidney_1")
    card = Card("unet", UNET, Preprocessing(roi_size=32), 0.5)
    save_checkpoint(tmp_path / "small.safetensors", create_model("unet", **UNET), card)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def wrong_label(folder):
    write_tiff(folder / "data/train/kidney_1/labels/0001.tif", np.zeros((40, 30), np.uint8))


def out_of_range(folder):
    rows = ["id,rle", "kidney_5_0000,1 0", "kidney_5_0001,1240 2", "kidney_5_0002,1 0"]
    (folder / "s.csv").write_text("\n".join(rows))


PREDICT = "predict --data-dir data --output out.csv --checkpoint small.safetensors"
TRAIN = (
    "train unet-dice-bce --data-dir data --output-dir out --train-volumes kidney_1 --held-out-fraction 0 "
    "--held-out-slices kidney_1_0000"
)

FAULTS = [
    pytest.param(None, "predict --data-dir nowhere --output out.csv", "nowhere/test is missing", id="data folder"),
    pytest.param(None, f"{PREDICT} no.safetensors", "checkpoint no.safetensors is missing", id="checkpoint"),
    pytest.param(
        lambda folder: truncate(folder / "small.safetensors"), PREDICT, "is truncated or not", id="truncated checkpoint"
    ),
    pytest.param(
        lambda folder: truncate(folder / "data/test/kidney_5/images/0002.tif"),
        PREDICT,
        "0002.tif is truncated",
        id="truncated slice",
    ),
    pytest.param(None, f"{PREDICT} --batch-size 0", "batch_size must be at least 1", id="batch size"),
    pytest.param(None, f"{PREDICT} --threshold 2", "threshold must lie in 0..1", id="threshold"),
    pytest.param(None, f"{PREDICT} --device cuda:7", "device 'cuda:7' is not on this machine", id="device"),
    pytest.param(None, f"{PREDICT} --overlap 1", "overlap must lie in 0..1 (1 excluded), got 1.0", id="overlap"),
    pytest.param(None, f"{PREDICT} --sw-batch-size 0", "sw_batch_size must be at least 1", id="sw batch size"),
    pytest.param(None, f"{PREDICT} --scale -1", "scale must be a number in 0.1..10, got -1.0", id="scale"),
    pytest.param(None, f'{PREDICT} --scales {{"kidney_6":"a"}}', "scale must be a number in", id="scale of a kidney"),
    pytest.param(None, f"{PREDICT} --axes zyx --scratch-dir no", "scratch_dir no is missing", id="scratch folder"),
    pytest.param(
        lambda folder: write_tiff(folder / "data/test/kidney_5/images/0001.tif", np.zeros((40, 30), np.uint16)),
        f"{PREDICT} --axes zyx",
        "slice 2 is uint16 (40, 30) but the first is uint16 (40, 31)",
        id="slices of two sizes",
    ),
    pytest.param(
        None, PREDICT.replace("out.csv", "no/out.csv"), "cannot write no/out.csv: there is no folder no", id="output"
    ),
    pytest.param(wrong_label, TRAIN, "0001.tif is 40x30 but its image", id="label size"),
    pytest.param(None, f"{TRAIN} --model resnet", "unknown model 'resnet': choose one of", id="model name"),
    pytest.param(None, f"{TRAIN} --loss dise", "unknown loss 'dise': choose one of", id="loss name"),
    pytest.param(None, f"{TRAIN} --epochs 0", "epochs must be positive", id="epochs"),
    pytest.param(
        out_of_range,
        "validate --submission s.csv --data-dir data",
        "kidney_5_0001: RLE out of range",
        id="RLE out of range",
    ),
    pytest.param(None, "dry-run --volume kidney_2", "volume kidney_2 needs --data-dir", id="volume without data"),
    pytest.param(
        None, f"{TRAIN} --held-out-fraction 0.5", "exclude each other: give one of them", id="two ways to split"
    ),
    pytest.param(
        None,
        "sam-zero-shot --data-dir data --output-dir out --volume kidney_1",
        "sam_vit_b_01ec64.pth",
        id="no weights of Segment Anything",
    ),
    pytest.param(
        None,
        """compare --data-dir data --output-dir out --test-volume kidney_1 --override {"x":{}}""",
        "override 'x' is of no chosen experiment",
        id="override",
    ),
    pytest.param(None, "stats --data-dir data --volume kidney_9", "has no kidney kidney_9", id="kidney to measure"),
    pytest.param(
        None, "pack --model sam --weights-path no.pth --output out.safetensors", "no.pth are missing", id="weights"
    ),
]


@pytest.mark.parametrize(("damage", "command", "message"), FAULTS)
def test_faults_are_one_line(folder, capsys, damage, command, message):
    if damage:
        damage(folder)
    before = sorted(folder.rglob("*"))
    assert main(command.split()) == 2
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0] == lines[-1]
    assert message in errors[0]
    assert sorted(folder.rglob("*")) == before


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
