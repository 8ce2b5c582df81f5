"""The surface loss of stacks against the metric, against a sum over all codes, and by its gradient."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sennet_kaggle.config import Preprocessing, Training
from sennet_kaggle.errors import InputError
from sennet_kaggle.scoring.surface_dice import AREA_OF_CODE, surface_dice
from sennet_kaggle.training.surface_loss import surface_loss_3d
from sennet_kaggle.training.training_state import check_settings


def sure(mask):
    return torch.from_numpy(mask[None] * 400.0 - 200)


def known(mask):
    return torch.from_numpy(mask[None]).float()


@pytest.mark.parametrize("density", [0.05, 0.4, 0.9])
def test_of_sure_answers_it_is_the_metric(density):
    """With a border of background, since nothing closes a stack at its sides."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask_gt, mask_pred = (np.pad(rng.random((4, 6, 5)) < density, 1) for _ in range(2))
        loss = surface_loss_3d(sure(mask_pred), known(mask_gt), smooth=1e-9).item()
        assert 1 - loss == pytest.approx(surface_dice(mask_gt, mask_pred), abs=1e-6)


def test_two_voxels_and_one_by_hand():
    """A voxel has 8 corners of one triangle each (sqrt(3)/8); two on top of each other 4 of these at either end, and 4
    half rectangles cut off an edge (sqrt(2)/2) between. The truth is the upper voxel alone, and all its corners are
    corners of both."""
    mask_gt, mask_pred = np.zeros((2, 4, 3, 3), bool)
    mask_gt[1, 1, 1] = True
    mask_pred[1:3, 1, 1] = True
    triangle, rectangle = math.sqrt(3) / 8, math.sqrt(2) / 2
    common = 8 * triangle + 4 * triangle + 4 * rectangle
    expected = 1 - common / (8 * triangle + 8 * triangle + 4 * rectangle)
    assert surface_loss_3d(sure(mask_pred), known(mask_gt), smooth=1e-9).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("code", [0b00000001, 0b11110000, 0b01101001, 0b11111111])
def test_one_corner_in_expectation(code):
    """The sum over all 256 codes of their probability times what each gives, term by term."""
    bits = np.array([code >> (7 - bit) & 1 for bit in range(8)], bool).reshape(2, 2, 2)
    probability = np.array([0.1, 0.9, 0.3, 0.6, 0.5, 0.2, 0.7, 0.8]).reshape(2, 2, 2)
    area_gt, common, both = AREA_OF_CODE[code], 0.0, AREA_OF_CODE[code]
    for other, drawn in enumerate(itertools.product((0, 1), repeat=8)):
        chance = np.where(np.reshape(drawn, (2, 2, 2)), probability, 1 - probability).prod()
        both += chance * AREA_OF_CODE[other]
        if area_gt and AREA_OF_CODE[other]:
            common += chance * (area_gt + AREA_OF_CODE[other])
    loss = surface_loss_3d(torch.from_numpy(probability[None]).logit(), known(bits), smooth=0.25)
    assert loss.item() == pytest.approx(1 - (common + 0.25) / (both + 0.25), abs=1e-9)


def test_its_gradient():
    """On 3 slices of 3 x 4 voxels, some of them ignored, against differences."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(logits.shape, generator=generator) < 0.4).double()
    valid_mask = torch.rand(logits.shape, generator=generator) < 0.95
    assert torch.autograd.gradcheck(lambda logits: surface_loss_3d(logits, target, valid_mask), (logits,))
    (gradient,) = torch.autograd.grad(surface_loss_3d(logits, target, valid_mask), logits)
    assert (gradient != 0).any() and (gradient[~valid_mask] == 0).all()


def test_an_ignored_slice_takes_its_corners_along():
    """Of 4 slices the last one is unknown: the loss is that of the first three, whatever is said there."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 4, 5, 5, generator=generator)
    target = (torch.rand(logits.shape, generator=generator) < 0.4).float()
    valid_mask = torch.ones_like(target, dtype=torch.bool)
    valid_mask[:, 3] = False
    logits[:, 3] = torch.nan
    torch.testing.assert_close(
        surface_loss_3d(logits, target, valid_mask), surface_loss_3d(logits[:, :3], target[:, :3])
    )
    wide, flat = F.pad(logits[:, :3], (0, 2)), F.pad(target[:, :3], (0, 2), value=1)
    valid_mask = F.pad(torch.ones_like(target[:, :3]), (0, 2)).bool()
    torch.testing.assert_close(surface_loss_3d(wide, flat, valid_mask), surface_loss_3d(logits[:, :3], target[:, :3]))


@pytest.mark.parametrize(
    ("offsets", "outputs", "is_refused"),
    [
        ((-1, 0, 1), "all", False),
        ((-1, 0, 1), "centre", True),
        ((0, -1, 1), "all", True),
        ((-2, 0, 2), "all", True),
        ((0, 0, 0), "all", True),
    ],
)
def test_losses_of_stacks_need_neighbours_in_order(offsets, outputs, is_refused):
    preprocessing = Preprocessing(offsets=offsets, outputs=outputs)
    training = Training(preprocessing=preprocessing, loss="dice_bce_surface_3d")
    if not is_refused:
        return check_settings(training)
    with pytest.raises(InputError, match="needs outputs for neighbouring slices in their order, found offsets"):
        check_settings(training)
