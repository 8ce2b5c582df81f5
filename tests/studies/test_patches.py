from dataclasses import replace

import numpy as np
import pytest
import torch

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import DEFAULT_INFERENCE, Preprocessing
from sennet_kaggle.data.padding import find_padding
from sennet_kaggle.errors import InputError
from sennet_kaggle.files import shipped_checkpoints
from sennet_kaggle.inference.predictor import Predictor
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.studies import patches
from sennet_kaggle.studies.patches import nearest_kidney, open_patches, predict_patch, score_patches

pytestmark = pytest.mark.usefixtures("one_thread")

UNET = {"widths": [4, 8], "bottleneck": 8, "in_channels": 1}
WINDOWS = Preprocessing(region="windows", roi_size=64, mean=(0.0,), std=(1.0,))


class Brightness(torch.nn.Module):
    """Vessel where the image is below 0.5: the logit is 0.5 - image."""

    def forward(self, image):
        return 0.5 - image


def brightness(preprocessing=WINDOWS):
    return Predictor(Brightness().eval(), preprocessing, 0.5, torch.device("cpu"))


def write_patches(path, grey, mask):
    np.savez(path, x=grey, y=mask)
    return path


@pytest.fixture
def checkpoint_path(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, create_model("unet", **UNET), Card("unet", UNET, WINDOWS, 0.5))
    return path


@pytest.fixture
def one_voxel():
    """Two patches of 3 x 16 x 16: the first with a vessel of one voxel, the second with none."""
    grey, mask = np.full((2, 3, 16, 16), 100, np.uint8), np.zeros((2, 3, 16, 16), bool)
    mask[0, 1, 8, 8] = True
    return grey, mask


@pytest.mark.parametrize(
    ("low", "high", "kidney"),
    [(79, 116, "kidney_1_dense"), (98, 116, "kidney_1_dense"), (116, 165, "kidney_2"), (80, 84, "kidney_3_sparse")],
)
def test_the_nearest_kidney(low, high, kidney):
    assert nearest_kidney(np.linspace(low, high, 4096).reshape(16, 16, 16).astype(np.uint8)) == kidney


@pytest.mark.parametrize("axes", ["z", "zyx"])
def test_grey_values_become_0_to_1_as_in_the_whole_kidney(axes):
    """A plateau, which tissue in 8 bits has, stays as it is; a hundredth of a grey level is lost at most.

    But near an edge, which the other scales blur.
    """
    grey = np.full((6, 40, 33), 100, np.uint8)
    grey[:, :20] = 85
    probability = predict_patch(grey, brightness(), replace(DEFAULT_INFERENCE, axes=axes))
    low, high = 20243, 29649
    expected = 1 / (1 + np.exp((grey * 256.0 - low) / (high - low) - 0.5))
    far = np.r_[:16, 24:40]
    assert probability[:, far] == pytest.approx(expected[:, far], abs=1e-3)
    assert probability[:, 19:21] != pytest.approx(expected[:, 19:21], abs=1e-3)
    assert find_padding(grey[0]).any()  # what would have been filled


def test_models_of_8_bits_see_the_bytes():
    grey = np.full((4, 16, 16), 51, np.uint8)
    preprocessing = Preprocessing(intensity="eight_bit", region="windows", roi_size=64, mean=(0.0,), std=(1.0,))
    probability = predict_patch(grey, brightness(preprocessing), DEFAULT_INFERENCE)
    assert probability == pytest.approx(1 / (1 + np.exp(0.2 - 0.5)), abs=1e-6)


def test_the_table(tmp_path, checkpoint_path, one_voxel, monkeypatch):
    """The label is one voxel. At 0.4 the prediction is that voxel, at 0.2 it and the next: 8 corners of 12 in common.

    A voxel's corner has the area √3/8; of two voxels side by side, 8 corners are ends (√3/8 each) and 4 lie between
    (√2/2 each). In common are the label's 8 corners: 4 of them are ends of the pair, 4 lie between.
    """
    grey, mask = one_voxel
    probability = np.zeros(grey.shape[1:], np.float32)
    probability[1, 8, 8], probability[1, 8, 9] = 0.5, 0.3
    monkeypatch.setattr(patches, "predict_patch", lambda *_: probability)
    end, between = np.sqrt(3) / 8, np.sqrt(2) / 2
    common = 8 * end + 4 * end + 4 * between
    at_02 = common / (8 * end + 8 * end + 4 * between)
    path = score_patches(
        write_patches(tmp_path / "p.npz", grey, mask), [checkpoint_path], tmp_path / "out", (0.2, 0.4), ("z",), (0,)
    )
    lines = path.read_text().splitlines()
    assert lines[0] == "| checkpoint | axes | threshold | patch 0 | mean |"
    assert lines[2:4] == [
        f"| small.safetensors | z | 0.2 | {at_02:.2f} | {at_02:.2f} |",
        "| small.safetensors | z | 0.4 | 1.00 | 1.00 |",
    ]
    assert "1 in 0" in lines[6] and "0 as kidney_1_dense" in lines[7] and "choose nothing" in lines[8]


def test_several_checkpoints_are_scored_alone_and_together(tmp_path, checkpoint_path, one_voxel, monkeypatch):
    """One says 0.9 everywhere in the vessel, the other 0: their mean, 0.45, is above 0.4 and below 0.6."""
    grey, mask = one_voxel
    answers = iter([0.9 * mask[0], 0.0 * mask[0]])
    monkeypatch.setattr(patches, "predict_patch", lambda *_: next(answers))
    other = tmp_path / "other.safetensors"
    other.write_bytes(checkpoint_path.read_bytes())
    path = write_patches(tmp_path / "p.npz", grey, mask)
    table = score_patches(path, [checkpoint_path, other], tmp_path, (0.4, 0.6), ("z",), (0,)).read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:8]] == 2 * ["small.safetensors"] + 2 * [
        "other.safetensors"
    ] + 2 * ["together"]
    assert [float(line.split("|")[4]) for line in table[2:8]] == [1, 1, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"x": np.zeros((1, 2, 3, 4), np.uint8)}, "must have the arrays x .* found x"),
        ({"x": np.zeros((2, 3, 4), np.uint8), "y": np.zeros((2, 3, 4), bool)}, r"found x \(2, 3, 4\) uint8"),
        ({"x": np.zeros((1, 2, 3, 4), np.uint16), "y": np.zeros((1, 2, 3, 4), bool)}, "found x .* uint16"),
        ({"x": np.zeros((1, 2, 3, 4), np.uint8), "y": np.zeros((1, 2, 3, 5), bool)}, r"y \(1, 2, 3, 5\) bool"),
        ({"x": np.zeros((1, 2, 3, 4), np.uint8), "y": np.zeros((1, 2, 3, 4), np.uint8)}, r"y \(1, 2, 3, 4\) uint8"),
        ({"x": np.zeros((0, 2, 3, 4), np.uint8), "y": np.zeros((0, 2, 3, 4), bool)}, r"found x \(0, 2, 3, 4\)"),
        ({"x": np.array([{}], object), "y": np.zeros((1, 2, 3, 4), bool)}, "must be a .npz file .* found"),
    ],
    ids=["no y", "one patch", "16 bits", "another shape", "label in bytes", "no patch", "objects"],
)
def test_other_arrays_are_refused(tmp_path, arrays, found):
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(InputError, match=found):
        open_patches(tmp_path / "p.npz")


def test_other_percentiles_are_refused(tmp_path, one_voxel):
    preprocessing = Preprocessing(region="windows", roi_size=64, mean=(0.0,), std=(1.0,), low_percentile=1.0)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, create_model("unet", **UNET), Card("unet", UNET, preprocessing, 0.5))
    with pytest.raises(InputError, match="c.safetensors scales grey values by the percentiles 1 and 99.8, but of"):
        score_patches(write_patches(tmp_path / "p.npz", *one_voxel), [path], tmp_path / "out", indices=(0,))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_shipped_checkpoint_on_real_patches(data_dir, tmp_path, capsys):
    """Along z, at one scale and 0.4 the first had .82 .49 .76 .32; its successors should not fall far below."""
    path = data_dir / "patches" / "kidney_3d_patches_63um.npz"
    command = ["score-patches", "--patches", str(path), "--output-dir", str(tmp_path), "--axes", "z"]
    assert main([*command, "--threshold", "0.4", "--extra-scales"]) == 0
    row = capsys.readouterr().out.splitlines()[2].split("|")
    assert row[1].strip() == shipped_checkpoints()[0].name
    assert all(float(score) > least for score, least in zip(row[4:8], (0.7, 0.35, 0.65, 0.15), strict=True))
