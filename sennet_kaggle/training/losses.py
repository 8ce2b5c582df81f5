"""Logits and target → one number to minimise.

A criterion is called as `criterion(logits, target, valid_mask=None)` with

- logits: (N, K, h, w) float, any range; the loss is computed in float32 whatever their dtype.
- target: (N, K, h, w) float, 0 or 1.
- valid_mask: (N, K, h, w) bool, the pixels that count; all of them when None.

Each is made of sums over the valid pixels of the whole batch, those of all processes of a training run, so
ignored area changes nothing, and where no pixel is valid the loss is 0 and so is its gradient.
"""

import functools
import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..checks import LARGEST
from ..distributed import sum_over_processes
from ..errors import InputError
from .surface_loss import surface_loss_3d

Criterion = Callable[..., torch.Tensor]


def bce_loss(logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Binary cross entropy, mean over the valid pixels."""
    return weighted_bce_loss(logits, target, valid_mask, pos_weight=1.0)


def weighted_bce_loss(
    logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None, pos_weight: float = 50.0
) -> torch.Tensor:
    """Binary cross entropy whose vessel pixels count `pos_weight` times, over the number of valid pixels.

    Args:
        pos_weight: background pixels over vessel pixels makes both classes weigh the same (see `stats`).
    """
    logits, target = _valid_pixels(logits, target, valid_mask)
    weight = torch.tensor(pos_weight, device=logits.device)
    total = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="sum")
    total, pixels = sum_over_processes(torch.stack((total, total.new_tensor(target.numel()))))
    return total / pixels.clamp(min=1)


def dice_loss(
    logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None, smooth: float = 1.0
) -> torch.Tensor:
    """Soft Dice loss (Milletari 2016), pooled over the batch: 1 - Dice, in 0..1.

    Pooling keeps slices without a vessel from being all or nothing, and `smooth` is small beside a slice's
    pixels, so that on an empty batch every false positive costs.

    Args:
        smooth: pixels added to both sides of the fraction.
    """
    logits, target = _valid_pixels(logits, target, valid_mask)
    return _soft_dice_loss(logits.sigmoid(), target, smooth)


def dice_bce_loss(
    logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None, smooth: float = 1.0
) -> torch.Tensor:
    """Binary cross entropy plus soft Dice loss."""
    return bce_loss(logits, target, valid_mask) + dice_loss(logits, target, valid_mask, smooth)


def ce_dice_loss(
    logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None, smooth: float = 1.0
) -> torch.Tensor:
    """Cross entropy of two classes plus soft Dice loss averaged over both, background and vessel.

    With the logits (0, x) for background and vessel, softmax gives the vessel sigmoid(x), so the cross
    entropy is exactly the binary one. The background's Dice, near 1 almost at once, is what differs.
    """
    cross_entropy = bce_loss(logits, target, valid_mask)
    logits, target = _valid_pixels(logits, target, valid_mask)
    vessel = _soft_dice_loss(logits.sigmoid(), target, smooth)
    background = _soft_dice_loss((-logits).sigmoid(), 1 - target, smooth)
    return cross_entropy + (vessel + background) / 2


def ignore_background_bce_loss(
    logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross entropy, mean over the vessel pixels alone; background has no say.

    Nothing speaks against calling every pixel vessel, and that is this loss's minimum, 0: of use only with a
    `valid_mask` or a second loss that restrains it, or to see just that.
    """
    is_vessel = target > 0.5
    return bce_loss(logits, target, is_vessel if valid_mask is None else is_vessel & valid_mask)


def focal_loss(
    logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None, gamma: float = 2.0
) -> torch.Tensor:
    """Binary cross entropy that counts a pixel the less the surer it is already (Lin 2017), mean over the valid pixels.

    Args:
        gamma: power of the probability of the wrong class, at least 1.
    """
    from torchvision.ops import sigmoid_focal_loss  # takes a second to import

    logits, target = _valid_pixels(logits, target, valid_mask)
    total = sigmoid_focal_loss(logits, target, alpha=-1, gamma=gamma, reduction="sum")
    total, pixels = sum_over_processes(torch.stack((total, total.new_tensor(target.numel()))))
    return total / pixels.clamp(min=1)


def surface_loss(
    logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None, smooth: float = 1.0
) -> torch.Tensor:
    """The competition's metric made differentiable, for contours of slices: 1 - soft Dice of the corners on a surface.

    A corner where four pixels meet is on the surface unless all or none of them are vessel; with independent
    pixels that has the probability 1 - p1 p2 p3 p4 - (1-p1)(1-p2)(1-p3)(1-p4). A mask and its complement have
    one surface, so this goes with a loss that knows inside from outside. Corners with an ignored pixel are left out.

    Args:
        smooth: corners added to both sides of the fraction.
    """
    if valid_mask is not None:
        logits = logits.masked_fill(~valid_mask, 0.0)  # else a NaN there reaches the corners' gradient
    on_surface_pred, on_surface_gt = _on_surface(logits.float().sigmoid()), _on_surface(target.float())
    if valid_mask is not None:
        whole = F.avg_pool2d(valid_mask.float(), 2, stride=1) == 1
        on_surface_pred, on_surface_gt = on_surface_pred[whole], on_surface_gt[whole]
    return _soft_dice_loss(on_surface_pred, on_surface_gt, smooth)


def dice_bce_surface_loss(
    logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None, smooth: float = 1.0
) -> torch.Tensor:
    """Binary cross entropy, soft Dice and soft surface loss, added up."""
    return dice_bce_loss(logits, target, valid_mask, smooth) + surface_loss(logits, target, valid_mask, smooth)


def dice_bce_surface_3d_loss(
    logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None, smooth: float = 1.0
) -> torch.Tensor:
    """Binary cross entropy, soft Dice and the soft surface loss of a stack (`surface_loss_3d`), added up."""
    return dice_bce_loss(logits, target, valid_mask, smooth) + surface_loss_3d(logits, target, valid_mask, smooth)


def focal_dice_surface_3d_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    valid_mask: torch.Tensor | None = None,
    smooth: float = 1.0,
    gamma: float = 2.0,
) -> torch.Tensor:
    """Focal, soft Dice and the soft surface loss of a stack, added up."""
    surface = surface_loss_3d(logits, target, valid_mask, smooth)
    return focal_loss(logits, target, valid_mask, gamma) + dice_loss(logits, target, valid_mask, smooth) + surface


LOSSES: dict[str, Criterion] = {
    "bce": bce_loss,
    "weighted_bce": weighted_bce_loss,
    "dice": dice_loss,
    "dice_bce": dice_bce_loss,
    "ce_dice": ce_dice_loss,
    "ignore_background_bce": ignore_background_bce_loss,
    "focal": focal_loss,
    "surface": surface_loss,
    "dice_bce_surface": dice_bce_surface_loss,
    "surface_3d": surface_loss_3d,
    "dice_bce_surface_3d": dice_bce_surface_3d_loss,
    "focal_dice_surface_3d": focal_dice_surface_3d_loss,
}
STACK_LOSSES = {"surface_3d", "dice_bce_surface_3d", "focal_dice_surface_3d"}
"""Those whose outputs must be neighbouring slices."""


def create_criterion(name: str, **arguments: float) -> Criterion:
    """Returns the loss of that name with its arguments set.

    Args:
        name: a key of `LOSSES`.
        arguments: `pos_weight`, `smooth` or `gamma`, where the loss has it; positive.

    Raises:
        InputError: no such loss, no such argument of it, or a value that is not positive.
    """
    if name not in LOSSES:
        raise InputError(f"unknown loss {name!r}: choose one of {', '.join(sorted(LOSSES))}")
    known = list(inspect.signature(LOSSES[name]).parameters)[3:]
    for argument, value in arguments.items():
        if argument not in known:
            raise InputError(f"loss {name!r} has no argument {argument!r}: it takes {', '.join(known) or 'none'}")
        if type(value) not in (int, float) or not 0 < value <= LARGEST:
            raise InputError(f"{argument} of loss {name!r} must be a positive number, got {repr(value)[:100]}")
    return functools.partial(LOSSES[name], **arguments)


def _valid_pixels(
    logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as float32; with a mask (valid pixels,), else their own shape."""
    if valid_mask is not None:
        logits, target = logits[valid_mask], target[valid_mask]
    return logits.float(), target.float()


def _on_surface(probability: torch.Tensor) -> torch.Tensor:
    """(N, 1, h, w) in 0..1 → the probability of each corner to be on a surface, (N, 1, h-1, w-1)."""

    def product_of_four(pixels: torch.Tensor) -> torch.Tensor:
        pairs = pixels[..., 1:] * pixels[..., :-1]
        return pairs[..., 1:, :] * pairs[..., :-1, :]

    return 1 - product_of_four(probability) - product_of_four(1 - probability)


def _soft_dice_loss(probability: torch.Tensor, target: torch.Tensor, smooth: float) -> torch.Tensor:
    sums = torch.stack(((probability * target).sum(), probability.sum() + target.sum()))
    both, sizes = sum_over_processes(sums)
    return 1 - (2 * both + smooth) / (sizes + smooth)
