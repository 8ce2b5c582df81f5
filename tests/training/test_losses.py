import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import multiprocessing

from sennet_kaggle.errors import InputError
from sennet_kaggle.training.losses import LOSSES, create_criterion, dice_loss

LOGITS = torch.tensor([0.0, math.log(3), -math.log(3), 0.0]).view(1, 1, 2, 2)  # probabilities 1/2, 3/4, 1/4, 1/2
TARGET = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
BCE = -(2 * math.log(0.5) + 2 * math.log(0.75)) / 4
DICE = 1 - (2 * (0.5 + 0.75) + 1) / (2 + 2 + 1)
CORNER = 1 - 2 * (0.5 * 0.75 * 0.25 * 0.5)  # the only one is on the target's surface, and so likely on the prediction's
SURFACE = 1 - (2 * CORNER + 1) / (1 + CORNER + 1)
VALUES = {
    "bce": BCE,
    "weighted_bce": -(50 * math.log(0.5) + 50 * math.log(0.75) + math.log(0.75) + math.log(0.5)) / 4,
    "dice": DICE,
    "dice_bce": BCE + DICE,
    "ce_dice": BCE + DICE,  # the drawing is symmetric: background's Dice is vessel's
    "ignore_background_bce": -(math.log(0.5) + math.log(0.75)) / 2,
    "focal": -(2 * 0.5**2 * math.log(0.5) + 2 * 0.25**2 * math.log(0.75)) / 4,
    "surface": SURFACE,
    "dice_bce_surface": BCE + DICE + SURFACE,
    # One slice has no neighbourhood of 2 x 2 x 2; stacks are in test_surface_loss.py.
    "surface_3d": 0.0,
    "dice_bce_surface_3d": BCE + DICE,
    "focal_dice_surface_3d": -(2 * 0.5**2 * math.log(0.5) + 2 * 0.25**2 * math.log(0.75)) / 4 + DICE,
}


def random_batch(slices=4, size=6, outputs=1):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(slices, outputs, size, size, generator=generator)
    return logits, (torch.rand(logits.shape, generator=generator) < 0.3).float()


def value_and_gradient(name, logits, target, valid_mask=None):
    logits = logits.clone().requires_grad_()
    loss = LOSSES[name](logits, target, valid_mask)
    loss.backward()
    return loss.item(), logits.grad


@pytest.mark.parametrize("name", LOSSES)
def test_by_hand(name):
    assert create_criterion(name)(LOGITS, TARGET).item() == pytest.approx(VALUES[name], abs=1e-6)


def test_arguments_by_hand():
    weighted = create_criterion("weighted_bce", pos_weight=3)(LOGITS, TARGET).item()
    assert weighted == pytest.approx(-(4 * math.log(0.5) + 4 * math.log(0.75)) / 4)
    smoothed = create_criterion("dice", smooth=5.0)(LOGITS, TARGET).item()
    assert smoothed == pytest.approx(1 - (2.5 + 5) / (4 + 5))


def test_surface_loss_of_sure_answers_is_the_share_of_common_corners():
    """
    .....    .....    Target and prediction, 2 x 2 pixels and 2 x 3. The first has the 8 corners of its outline, the
    .##..    .###.    second 10. They share 7: the eighth, the middle of the target's right side, lies inside the
    .##..    .###.    prediction.
    .....    .....
    """
    target, prediction = torch.zeros(2, 1, 1, 4, 5)
    target[..., 1:3, 1:3] = 1
    prediction[..., 1:3, 1:4] = 1
    loss = create_criterion("surface", smooth=1e-9)(prediction * 200 - 100, target).item()
    assert loss == pytest.approx(1 - 2 * 7 / (8 + 10))


def test_both_classes_of_ce_dice_count():
    """One vessel pixel of four, probability 1/2 everywhere: Dice (1+1)/(1+2+1) and (3+1)/(3+2+1)."""
    target = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
    loss = LOSSES["ce_dice"](torch.zeros(1, 1, 2, 2), target).item()
    assert loss == pytest.approx(math.log(2) + ((1 - 2 / 4) + (1 - 4 / 6)) / 2)


def test_bce_is_the_cross_entropy_of_two_classes():
    logits, target = random_batch()
    two_classes = torch.cat((torch.zeros_like(logits), logits), dim=1)
    expected = F.cross_entropy(two_classes, target[:, 0].long())
    torch.testing.assert_close(LOSSES["bce"](logits, target), expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_logits(name, extreme):
    target = torch.zeros(2, 1, 4, 4)
    target[0] = 1
    value, gradient = value_and_gradient(name, torch.full((2, 1, 4, 4), extreme), target)
    assert math.isfinite(value) and gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_are_summed_in_float32(name):
    """A hundred thousand pixels overflow float16's range and bfloat16's digits."""
    logits, target = torch.full((1, 1, 400, 256), 4.0, dtype=torch.float16), torch.zeros(1, 1, 400, 256)
    target[..., :3] = 1
    expected = LOSSES[name](logits.float(), target)
    for dtype in (torch.float16, torch.bfloat16):
        loss = LOSSES[name](logits.to(dtype), target.to(dtype))
        assert loss.dtype == torch.float32 and loss == expected


def test_false_positives_on_an_empty_slice_cost():
    empty = torch.zeros(1, 1, 64, 64)
    nothing, everything = torch.full_like(empty, -20), torch.full_like(empty, 20)
    some = nothing.clone()
    some[..., :4, :4] = 20
    losses = [dice_loss(logits, empty).item() for logits in (nothing, some, everything)]
    assert losses[0] < 0.01 < losses[1] < losses[2]
    assert losses[1] > 0.9


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_area_changes_nothing(name):
    """Whatever the logits say there, even NaN."""
    logits, target = random_batch(outputs=2)
    value, gradient = value_and_gradient(name, logits, target)
    padded_logits, padded_target = F.pad(logits, (3, 0, 0, 5), value=float("nan")), F.pad(target, (3, 0, 0, 5), value=1)
    valid_mask = F.pad(torch.ones_like(target), (3, 0, 0, 5)).bool()
    padded_value, padded_gradient = value_and_gradient(name, padded_logits, padded_target, valid_mask)
    assert padded_value == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(padded_gradient[valid_mask].view_as(gradient), gradient)
    assert (padded_gradient[~valid_mask] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_valid(name):
    logits, target = random_batch(outputs=2)
    value, gradient = value_and_gradient(name, logits, target, torch.zeros_like(target, dtype=torch.bool))
    assert value == 0 and (gradient == 0).all()


def test_ignoring_background_leads_to_calling_everything_vessel():
    """Taken literally, the report's loss is minimised by a useless answer."""
    target = torch.zeros(1, 1, 6, 6)
    target[..., :2, :3] = 1
    bias = torch.tensor(-1.0, requires_grad=True)  # one for all pixels, as a network's last layer has
    for _ in range(200):
        (gradient,) = torch.autograd.grad(LOSSES["ignore_background_bce"](bias.expand_as(target), target), bias)
        bias.data -= 20 * gradient
    everything = bias.detach().expand_as(target)
    assert LOSSES["ignore_background_bce"](everything, target).item() < 1e-3
    assert (everything > 0).all()
    dice = 1 - dice_loss(everything, target, smooth=1e-6).item()
    assert dice == pytest.approx(2 * 6 / (36 + 6), abs=1e-3)


def _loss_of_one_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for name in LOSSES:
        model, images, target, valid_mask = small_training()
        mine = slice(rank * 3, rank * 3 + 3 - 2 * rank)  # three slices and one: the shares differ
        loss = LOSSES[name](model(images[mine]), target[mine], valid_mask[mine])
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        for gradient in gradients:  # what DistributedDataParallel does, whose import takes seconds
            dist.all_reduce(gradient)
            gradient /= 2
        results[name] = (loss.item(), gradients)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def small_training():
    torch.manual_seed(0)
    images, target = random_batch(outputs=2)
    return torch.nn.Conv2d(2, 2, 3, padding=1), images, target, torch.rand(target.shape) < 0.7


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path):
    multiprocessing.spawn(_loss_of_one_of_two, args=(tmp_path,), nprocs=2)
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        for name, criterion in LOSSES.items():
            model, images, target, valid_mask = small_training()
            loss = criterion(model(images), target, valid_mask)
            loss.backward()
            value, gradients = results[name]
            assert value == pytest.approx(loss.item(), rel=5e-6), name
            for gradient, parameter in zip(gradients, model.parameters(), strict=True):
                torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "dise",
            {},
            "unknown loss 'dise': choose one of bce, ce_dice, dice, dice_bce, dice_bce_surface, dice_bce_surface_3d,",
        ),
        ("bce", {"pos_weight": 5}, "loss 'bce' has no argument 'pos_weight': it takes none"),
        ("dice", {"pos_weight": 5}, "loss 'dice' has no argument 'pos_weight': it takes smooth"),
        ("dice", {"valid_mask": 1}, "loss 'dice' has no argument 'valid_mask'"),
        ("weighted_bce", {"pos_weight": 0}, "pos_weight of loss 'weighted_bce' must be a positive number, got 0"),
        ("dice", {"smooth": float("nan")}, "smooth of loss 'dice' must be a positive number, got nan"),
        ("dice", {"smooth": "1"}, "smooth of loss 'dice' must be a positive number, got '1'"),
    ],
)
def test_wrong_names_and_arguments(name, arguments, message):
    with pytest.raises(InputError, match=message):
        create_criterion(name, **arguments)
