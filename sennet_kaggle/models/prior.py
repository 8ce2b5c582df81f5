"""The probability of a vessel that fresh weights answer."""

import math

from torch import nn

from ..errors import InputError


def set_prior(head: nn.Conv2d, prior: float, model: str) -> None:
    """Sets the bias of a fresh last layer so that it answers a probability wherever its input is 0 (Lin 2017).

    Near the share of vessel pixels, training need not begin by learning that share. A prior of 0.5 leaves the layer as
    it is, so that old experiments begin with the weights they had.

    Args:
        head: the layer of logits, changed in place.
        prior: between 0 and 1.
        model: its name, for the message.

    Raises:
        InputError: a prior that is not between 0 and 1.
    """
    if not 0 < prior < 1:
        raise InputError(f"{model}: prior must lie between 0 and 1, got {prior}")
    if prior != 0.5 and head.bias is not None:
        nn.init.constant_(head.bias, math.log(prior / (1 - prior)))
