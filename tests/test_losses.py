import math

import pytest
import torch

from sennet_kaggle.errors import InputError
from sennet_kaggle.losses import LOSSES, create_criterion, dice_loss

LOGITS = torch.tensor([0.0, math.log(3), -math.log(3), 0.0]).view(1, 1, 2, 2)  # probabilities 1/2, 3/4, 1/4, 1/2
TARGET = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
BCE = -(2 * math.log(0.5) + 2 * math.log(0.75)) / 4
DICE = 1 - (2 * (0.5 + 0.75) + 1) / (2 + 2 + 1)


@pytest.mark.parametrize(("name", "value"), [("bce", BCE), ("dice", DICE), ("dice_bce", BCE + DICE)])
def test_by_hand(name, value):
    assert create_criterion(name)(LOGITS, TARGET).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_gradients_are_finite_at_extreme_logits(name, extreme):
    logits = torch.full((2, 1, 4, 4), extreme, requires_grad=True)
    target = torch.zeros(2, 1, 4, 4)
    target[0] = 1
    LOSSES[name](logits, target).backward()
    assert logits.grad.isfinite().all()


def test_false_positives_on_an_empty_slice_cost():
    empty = torch.zeros(1, 1, 64, 64)
    nothing, everything = torch.full_like(empty, -20), torch.full_like(empty, 20)
    some = nothing.clone()
    some[..., :4, :4] = 20
    losses = [dice_loss(logits, empty).item() for logits in (nothing, some, everything)]
    assert losses[0] < 0.01 < losses[1] < losses[2]
    assert losses[1] > 0.9


def test_unknown_name():
    with pytest.raises(InputError, match="unknown loss 'dise': choose one of bce, dice, dice_bce"):
        create_criterion("dise")
