"""The page about checkpoints."""

import pytest
import torch

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import Preprocessing
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.reports.card import write_card

ARGUMENTS = {"in_channels": 1, "widths": [4], "bottleneck": 4}
PREPROCESSING = Preprocessing(region="windows", roi_size=64, mean=(0.5,), std=(0.2,))


@pytest.fixture
def checkpoints(tmp_path):
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        card = Card("unet", ARGUMENTS, PREPROCESSING, 0.4, trained_on=("q_0001",), training={"seed": seed})
        paths.append(tmp_path / f"c{seed}.safetensors")
        save_checkpoint(paths[-1], create_model("unet", **ARGUMENTS), card)
    return paths


def test_a_page(checkpoints, tmp_path, write_kidney, capsys):
    write_kidney(tmp_path / "data" / "train" / "k", depth=2)
    command = ["card", "--data-dir", str(tmp_path / "data"), "--output-dir", str(tmp_path / "out"), "--volume", "k"]
    assert main([*command, "--checkpoint", *map(str, checkpoints)]) == 0
    text = (tmp_path / "out" / "checkpoint.md").read_text()
    rows = {
        row.split(" | ")[0].removeprefix("| "): row.split(" | ")[1:] for row in text.splitlines() if row[0:2] == "| "
    }
    assert rows["seed"] == ["0", "1 |"] and rows["learned from"][0] == "q_0001" and rows["threshold"][0] == "0.4"
    assert {"`c0.safetensors` alone", "`c1.safetensors` alone", "**together**"} <= rows.keys()
    first, second, mean, *_ = map(float, rows["**together**"][:3])
    assert mean == pytest.approx((first + second) / 2, abs=0.001)
    assert "A slice of 40 x 31 takes" in text
    assert (tmp_path / "out" / "checkpoint.png").read_bytes().startswith(b"\x89PNG")


def test_a_kidney_that_was_learned_from(checkpoints, tmp_path, write_kidney):
    write_kidney(tmp_path / "q", depth=3)
    with pytest.raises(InputError, match="q must be a labelled kidney .* but q_0001 was learned from"):
        write_card(checkpoints, tmp_path / "q", tmp_path / "out")
    write_kidney(tmp_path / "u", depth=1, labels=False)
    with pytest.raises(InputError, match="u must be a labelled kidney .* but no slice has a label"):
        write_card(checkpoints, tmp_path / "u", tmp_path / "out")
    assert not (tmp_path / "out").exists()
