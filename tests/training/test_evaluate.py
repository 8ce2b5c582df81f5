"""Validation on held-out slices, with the metric of neighbours, and the line that a training ends with."""

import numpy as np
import pytest
import torch
from conftest import write_tiff

from sennet_kaggle.config import Preprocessing, Training
from sennet_kaggle.data.dataset import SliceDataset
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.scoring.surface_dice import surface_dice
from sennet_kaggle.training.evaluate import describe_best, evaluate

pytestmark = pytest.mark.usefixtures("one_thread")
PREPROCESSING = Preprocessing(region="windows", roi_size=64, mean=(0.0,), std=(1.0,))
TRAINING = Training(preprocessing=PREPROCESSING)


class Bright(torch.nn.Module):
    """Sure that bright pixels are vessel and the others not."""

    def forward(self, image):
        return 30 * (image - 0.5)


@pytest.fixture
def kidney(tmp_path):
    """Five slices with a bright square, and its mask; in slice 1 the label has a pixel that is not bright."""
    rng = np.random.default_rng(0)
    bright = np.zeros((5, 40, 33), bool)
    bright[:, 10:22, 8:20] = True
    label = bright.copy()
    label[1, 30, 30] = True
    for z in range(5):
        grey = np.where(bright[z], rng.integers(50000, 60000, (40, 33)), rng.integers(0, 10000, (40, 33)))
        write_tiff(tmp_path / "k" / "images" / f"{z:04d}.tif", grey.astype(np.uint16))
        write_tiff(tmp_path / "k" / "labels" / f"{z:04d}.tif", label[z].astype(np.uint8) * 255)
    return open_volume(tmp_path / "k"), label, bright


def validated(volume, zs):
    held_out = SliceDataset([volume], PREPROCESSING, only=[volume.slice_ids[z] for z in zs])
    return evaluate(Bright(), held_out, TRAINING)


def test_neighbours_have_a_surface_dice(kidney):
    volume, label, bright = kidney
    row = validated(volume, (0, 1, 2))
    assert row["held_out_surface_dice"] == pytest.approx(surface_dice(label[:3], bright[:3]), abs=1e-12)
    assert 0.9 < row["held_out_surface_dice"] < 1 and type(row["held_out_surface_dice"]) is float


def test_of_several_runs_the_layers_between_neighbours_count(kidney):
    """Slices 3 and 4 are predicted as they are labelled, slice 0 has no neighbour: nothing is wrong."""
    volume, _, _ = kidney
    assert validated(volume, (0, 3, 4))["held_out_surface_dice"] == 1
    assert validated(volume, (1, 2, 4))["held_out_surface_dice"] < 1


def test_without_neighbours_there_is_none(kidney):
    volume, _, _ = kidney
    row = validated(volume, (0, 2, 4))
    assert row["held_out_surface_dice"] is None and row["held_out_dice"] == 1


UNET = {"widths": [4], "bottleneck": 4}
FIRST = "best checkpoint: {path}, epoch {epoch} of 4"


@pytest.mark.parametrize(
    ("epoch", "score", "line"),
    [
        (2, 0.8, ": Dice 0.8000 at threshold 0.35 on 2 held-out slices, the highest of 2 looks; the last has 0.7000"),
        (4, 0.7, ": Dice 0.7000 at threshold 0.35 on 2 held-out slices, the highest of 2 looks; it is the last"),
        (3, 0.6, ": Dice 0.6000 at threshold 0.35 on 1 held-out slice, the only look at them"),
        (4, None, ", the last: no slice was held out to choose by; threshold 0.35 by the settings"),
    ],
)
def test_which_epoch_is_best_and_why(tmp_path, epoch, score, line):
    card = Card("unet", UNET, Preprocessing(), 0.35, scores={"epoch": epoch, "held_out_dice_pooled": score})
    once = epoch == 3
    card.training["held_out"] = ["a"] if once else ["a", "b"]
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, create_model("unet", **UNET), card)
    second, third, fourth = ("", 0.6, "") if once else ("" if score is None else 0.8, "", 0.7)
    (tmp_path / "metrics.csv").write_text(f"epoch,held_out_dice\n1,\n2,{second}\n3,{third}\n4,{fourth}\n")
    assert describe_best(path) == FIRST.format(path=path, epoch=epoch) + line
