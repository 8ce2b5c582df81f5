"""Several scales as one: wide vessels that only the coarse one finds are added, and nothing else of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_predictor import Model, random_slices

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.inference.ensemble import add_wide, ensemble_score, mean_of_scales, measure_grey_values
from sennet_kaggle.inference.loading import create_predictor

GREY = Preprocessing(intensity="eight_bit", region="windows", roi_size=512, mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize(("width", "counts"), [(20, False), (80, False), (96, True), (140, True)])
def test_only_what_is_wide_counts(width, counts):
    """A band of `width` pixels at scale 1, sure at half the scale alone."""
    score, coarse = torch.full((128, 240), 0.2), torch.full((64, 120), 0.1)
    coarse[:, 20 : 20 + width // 2] = 0.9
    found = add_wide(score, coarse)
    assert found.shape == score.shape
    assert (found[:, 44 : 36 + width] > 0.5).all() if counts else (found < 0.5).all()
    assert (found[:, :36] == 0.2).all()  # what the first is surer of stays


def test_finer_scales_are_averaged():
    """The model says 0.88 of windows of twice the size and 0.12 of the others."""

    def larger(tensor):
        return tensor[:, :1] * 0 + (2.0 if tensor.shape[-1] > 128 else -2.0)

    slices, inference = random_slices(2, (96, 128)), Inference(device="cpu", extra_scales=(2.0,))
    predictor = create_predictor(Model(larger), GREY, 0.5, inference)
    grey = measure_grey_values(slices, [predictor], inference)
    for score in ensemble_score([predictor], grey, inference)(slices):
        assert score.shape == (96, 128)
        np.testing.assert_allclose(score, 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "mean"),
    [
        (0.9, 0.1, 0.5),
        (0.9, 0.01, 0.231662),  # odds of 9 and 1/99: their geometric mean is 1/3.3166
        (1.0, 0.5, 0.969332),  # as 0.999
        (1.0, 0.0, 0.5),
    ],
)
def test_the_surer_of_two_scales_decides(one, other, mean):
    maps = [torch.full((2, 3), value) for value in (one, other)]
    np.testing.assert_allclose(mean_of_scales(maps, Inference()), mean, atol=1e-5)
    logits = [map_.logit().clamp(-30, 30) for map_ in maps]
    np.testing.assert_allclose(mean_of_scales(logits, Inference(average="logit")).sigmoid(), mean, atol=1e-5)


def test_whole_slices_are_seen_once():
    model, inference = Model(lambda tensor: tensor[:, :1]), Inference(device="cpu", extra_scales=(2.0, 0.5))
    predictor = create_predictor(model, replace(GREY, region="whole", roi_size=64), 0.5, inference)
    slices = random_slices(2, (96, 128))
    grey = measure_grey_values(slices, [predictor], inference)
    assert len(list(ensemble_score([predictor], grey, inference)(slices))) == len(model.shown) == 2


def test_the_surer_score_counts():
    score, coarse = torch.full((64, 64), 0.7), torch.full((32, 32), 0.6)
    torch.testing.assert_close(add_wide(score, coarse), score)


def darkness(tensor):
    """Logits of 8 where the window is dark, but for what holds a square of 101 pixels: as if those were unknown."""
    dark = (tensor[:, :1] < 0.5).float()
    wide = -torch.nn.functional.max_pool2d(-dark, 101, 1, 50)
    return 16 * (dark - torch.nn.functional.max_pool2d(wide, 101, 1, 50)) - 8


@pytest.mark.parametrize("scales", [(), (0.5,)])
def test_a_lumen_too_wide_for_the_model_is_filled_at_half_the_scale(scales):
    """A disc 180 wide: at scale 1 the model fills its border alone, at half the scale, 90 wide, all of it."""
    rows, columns = np.ogrid[:256, :320]
    disc = (rows - 120) ** 2 + (columns - 150) ** 2 < 90**2
    slice_ = (np.where(disc, 20, 180) + np.random.default_rng(0).integers(0, 40, disc.shape)).astype(np.uint8)
    inference = Inference(device="cpu", extra_scales=scales, skip_background=False)
    predictor = create_predictor(Model(darkness), GREY, 0.5, inference)
    grey = measure_grey_values([slice_], [predictor], inference)
    (score,) = ensemble_score([predictor], grey, inference)([slice_])
    found = score.numpy() > 0.5
    assert not found[~disc].mean() > 0.01
    assert found[disc].mean() > 0.85 if scales else found[disc].mean() < 0.4


def test_each_slice_is_read_once_and_each_scale_is_shown_it():
    slices, inference = random_slices(4, (96, 128)), Inference(device="cpu", extra_scales=(0.5, 0.25))
    model = Model(lambda tensor: tensor[:, :1])
    predictor = create_predictor(model, GREY, 0.5, inference)
    grey, read = measure_grey_values(slices, [predictor], inference), []
    scores = list(ensemble_score([predictor], grey, inference)(read.append(z) or slices[z] for z in range(4)))
    assert read == [0, 1, 2, 3] and [tuple(score.shape) for score in scores] == [(96, 128)] * 4
    assert sorted({shape[2:] for shape in model.shown}) == [(32, 32), (64, 64), (96, 128)]
