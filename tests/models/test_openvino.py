"""The optional backend: the same masks, or one line where it is missing."""

import sys

import numpy as np
import pytest
import torch

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.data.intensity import IntensityRange
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.files import shipped_checkpoints
from sennet_kaggle.inference.loading import create_predictor, load_predictors
from sennet_kaggle.inference.predict import predict_masks
from sennet_kaggle.models import create_model
from sennet_kaggle.scoring.metrics import dice_counts, dice_from_counts

ON_TORCH, ON_OPENVINO = Inference(device="cpu"), Inference(device="cpu", backend="openvino")
SMALL_SEGFORMER = {"hidden_sizes": [8, 16, 20, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}


@pytest.mark.parametrize("region", ["whole", "windows"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("unet", {"widths": [4, 8], "bottleneck": 8}), pytest.param("segformer", SMALL_SEGFORMER, marks=pytest.mark.slow)],
    ids=["unet", "segformer"],
)
def test_probabilities_are_those_of_torch(name, arguments, region):
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    model = create_model(name, **arguments)
    slices = list(np.random.default_rng(0).integers(0, 2**16, (3, 97, 70), dtype=np.uint16))
    preprocessing = Preprocessing(region=region, roi_size=64)
    ours, theirs = (
        create_predictor(model, preprocessing, 0.5, inference)(slices, IntensityRange(0, 65535), inference)
        for inference in (ON_OPENVINO, ON_TORCH)
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.01 * np.std(theirs))


@pytest.mark.slow
def test_masks_of_real_slices_are_the_same(data_dir):
    pytest.importorskip("openvino")
    volume = open_volume(data_dir / "test" / "kidney_6")
    masks = [
        [mask for _, mask in predict_masks(volume, load_predictors(shipped_checkpoints(), inference), inference)]
        for inference in (ON_OPENVINO, ON_TORCH)
    ]
    assert dice_from_counts(*sum(np.array(dice_counts(*pair)) for pair in zip(*masks, strict=True)).tolist()) >= 0.999


def test_without_the_package_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="needs the package openvino.*pip install -r requirements-openvino.txt"):
        create_predictor(create_model("unet", widths=[4], bottleneck=4), Preprocessing(), 0.5, ON_OPENVINO)
