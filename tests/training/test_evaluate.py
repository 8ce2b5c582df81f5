"""The line that a training ends with."""

import pytest

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.training.evaluate import describe_best

UNET = {"widths": [4], "bottleneck": 4}
FIRST = "best checkpoint: {path}, epoch {epoch} of 4"


@pytest.mark.parametrize(
    ("epoch", "score", "line"),
    [
        (2, 0.8, ": Dice 0.8000 at threshold 0.35 on 2 held-out slices, the highest of 2 looks; the last has 0.7000"),
        (4, 0.7, ": Dice 0.7000 at threshold 0.35 on 2 held-out slices, the highest of 2 looks; it is the last"),
        (4, None, ", the last: no slice was held out to choose by; threshold 0.35 by the settings"),
    ],
)
def test_which_epoch_is_best_and_why(tmp_path, epoch, score, line):
    card = Card("unet", UNET, Preprocessing(), 0.35, scores={"epoch": epoch, "held_out_dice_pooled": score})
    card.training["held_out"] = ["a", "b"]
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, create_model("unet", **UNET), card)
    (tmp_path / "metrics.csv").write_text(f"epoch,held_out_dice\n1,\n2,{'' if score is None else 0.8}\n3,\n4,0.7\n")
    assert describe_best(path) == FIRST.format(path=path, epoch=epoch) + line
