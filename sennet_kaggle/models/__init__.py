"""Models by name: image tensor → logits, or (Segment Anything) image → mask."""

import inspect
from typing import Any

from torch import nn

from ..errors import InputError
from .sam import create_sam
from .segformer import create_segformer
from .timm_unet import create_timm_unet
from .unet import UNet

MODELS = {"sam": create_sam, "segformer": create_segformer, "timm_unet": create_timm_unet, "unet": UNet}


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Builds a model with fresh weights, or with those at a `weights_path` where the model takes one.

    Args:
        name: "unet", "segformer", "timm_unet" or "sam".
        arguments: those of the model's builder; `in_channels` and `out_channels` are of every model but "sam". Values
            may come from JSON (lists for tuples).

    Returns:
        A module that maps (N, C, h, w) float tensors to logits (N, out_channels, h, w); "sam" instead has a method
        `segment` that maps an (H, W, 3) uint8 image to a mask (H, W) bool.

    Raises:
        InputError: an unknown name or argument, or a value the model refuses.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: choose one of {', '.join(sorted(MODELS))}")
    accepted = inspect.signature(MODELS[name]).parameters
    unknown = sorted(arguments.keys() - accepted.keys())
    if unknown:
        raise InputError(f"model {name!r} has no argument {unknown[0]!r}: it takes {', '.join(sorted(accepted))}")
    return MODELS[name](**arguments)
