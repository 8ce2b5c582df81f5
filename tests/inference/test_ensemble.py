"""Several scales as one: wide vessels that only the coarse one finds are added, and nothing else of it."""

import numpy as np
import pytest
import torch
from test_predictor import Model, random_slices

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.inference.ensemble import add_wide, ensemble_score, measure_grey_values
from sennet_kaggle.inference.loading import create_predictor

GREY = Preprocessing(intensity="eight_bit", region="windows", roi_size=256, mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize(("width", "counts"), [(4, False), (16, False), (24, True), (60, True)])
def test_only_what_is_wide_counts(width, counts):
    """A band of `width` pixels at scale 1, sure at half the scale alone."""
    score, coarse = torch.full((128, 160), 0.2), torch.full((64, 80), 0.1)
    coarse[:, 20 : 20 + width // 2] = 0.9
    found = add_wide(score, coarse, 0.5)
    assert found.shape == score.shape
    band = found[:, 44 : 36 + width] if width > 8 else found[:, 40:44]
    assert (band > 0.5).all() if counts else (found < 0.5).all()
    assert (found[:, :36] == 0.2).all()  # what the first is surer of stays


def test_the_surer_score_counts():
    score, coarse = torch.full((64, 64), 0.7), torch.full((32, 32), 0.6)
    torch.testing.assert_close(add_wide(score, coarse, 0.5), score)


def brightness(tensor):
    """Logits of 8 where the window is dark in a square of 25 pixels, as if that was all the model knew of lumens."""
    dark = (tensor[:, :1] < 0.5).float()
    wide = -torch.nn.functional.max_pool2d(-dark, 25, 1, 12)
    return 16 * (dark - torch.nn.functional.max_pool2d(wide, 25, 1, 12)) - 8  # dark, but for what is wider than 25


@pytest.mark.parametrize("scales", [(), (0.5,)])
def test_a_lumen_too_wide_for_the_model_is_filled_at_half_the_scale(scales):
    """A disc 40 wide: at scale 1 the model fills nothing of it, at half the scale, 20 wide, all."""
    rows, columns = np.ogrid[:200, :240]
    disc = (rows - 100) ** 2 + (columns - 90) ** 2 < 20**2
    slice_ = np.where(disc, 20, 200).astype(np.uint8)
    inference = Inference(device="cpu", coarse_scales=scales, skip_background=False)
    predictor = create_predictor(Model(brightness), GREY, 0.5, inference)
    grey = measure_grey_values([slice_], [predictor], inference)
    (score,) = ensemble_score([predictor], grey, inference)([slice_])
    found = score.numpy() > 0.5
    assert not found[~disc].mean() > 0.01
    assert found[disc].mean() > 0.85 if scales else found[disc].mean() < 0.4


def test_each_slice_is_read_once_and_each_scale_is_shown_it():
    slices, inference = random_slices(4, (96, 128)), Inference(device="cpu", coarse_scales=(0.5, 0.25))
    model = Model(lambda tensor: tensor[:, :1])
    predictor = create_predictor(model, GREY, 0.5, inference)
    grey, read = measure_grey_values(slices, [predictor], inference), []
    scores = list(ensemble_score([predictor], grey, inference)(read.append(z) or slices[z] for z in range(4)))
    assert read == [0, 1, 2, 3] and [tuple(score.shape) for score in scores] == [(96, 128)] * 4
    assert sorted({shape[2:] for shape in model.shown}) == [(32, 32), (64, 64), (96, 128)]
