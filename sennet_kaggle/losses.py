"""Logits and target → one number to minimise."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .errors import InputError

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy, mean over all pixels.

    Args:
        logits: (N, 1, h, w) float, any range.
        target: (N, 1, h, w) float, 0 or 1.
    """
    return F.binary_cross_entropy_with_logits(logits, target)


def dice_loss(logits: torch.Tensor, target: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """Soft Dice loss (Milletari 2016), pooled over the batch.

    Pooling keeps slices without a vessel from being all or nothing, and `smooth` is small beside a slice's
    pixels, so that on an empty batch every false positive costs.

    Args:
        logits: (N, 1, h, w) float, any range.
        target: (N, 1, h, w) float, 0 or 1.
        smooth: pixels added to both sides of the fraction.

    Returns:
        1 - Dice, in 0..1.
    """
    probability = logits.sigmoid()
    both = (probability * target).sum()
    return 1 - (2 * both + smooth) / (probability.sum() + target.sum() + smooth)


def dice_bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy plus soft Dice loss; arguments as theirs."""
    return bce_loss(logits, target) + dice_loss(logits, target)


LOSSES: dict[str, Criterion] = {"bce": bce_loss, "dice": dice_loss, "dice_bce": dice_bce_loss}


def create_criterion(name: str) -> Criterion:
    """Returns the loss of that name.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    if name not in LOSSES:
        raise InputError(f"unknown loss {name!r}: choose one of {', '.join(sorted(LOSSES))}")
    return LOSSES[name]
