"""Models by name: image tensor → logits, or (Segment Anything) image → mask; and checkpoints, which hold them.

In: a name with arguments, or a checkpoint file. Out: a torch module, and the card that says how it was trained. Open
this file first, then `checkpoint.py`.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..checks import check_arguments
from ..errors import InputError, one_line
from . import sam, sam_segmenter, segformer, timm_unet, unet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "sam": sam.create_sam,
    "sam_segmenter": sam_segmenter.create_sam_segmenter,
    "segformer": segformer.create_segformer,
    "timm_unet": timm_unet.create_timm_unet,
    "unet": unet.create_unet,
}
_LOADERS: dict[str, Callable[..., tuple[list[str], list[str]]]] = {
    "sam": sam.load_pretrained,
    "sam_segmenter": sam_segmenter.load_pretrained,
    "segformer": segformer.load_pretrained,
    "timm_unet": timm_unet.load_pretrained,
    "unet": unet.load_pretrained,
}


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Builds a model with fresh weights, or with those at a `weights_path`.

    Args:
        name: "unet", "segformer", "timm_unet", "sam_segmenter" or "sam".
        arguments: those of the model's builder; `in_channels` is of every model but "sam". Values
            may come from JSON (lists for tuples).

    Returns:
        A module that maps (N, C, h, w) float tensors to logits (N, out_channels, h, w); "sam" instead has a method
        `segment` that maps an (H, W, 3) uint8 image to a mask (H, W) bool.

    Raises:
        InputError: an unknown name or argument, or a value of another type, or one that the model refuses.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: choose one of {', '.join(sorted(MODELS))}")
    accepted = inspect.signature(MODELS[name]).parameters
    unknown = sorted(arguments.keys() - accepted.keys())
    if unknown:
        raise InputError(f"model {name!r} has no argument {unknown[0]!r}: it takes {', '.join(sorted(accepted))}")
    check_arguments(MODELS[name], arguments, name)
    try:
        return MODELS[name](**arguments)
    except (InputError, ImportError):  # a package that is missing is named by whoever asked for the model
        raise
    except Exception as error:  # torch, timm and transformers raise many kinds
        raise InputError(f"model {name!r} cannot be made with {arguments} ({one_line(error)})") from error


def load_pretrained(name: str, model: nn.Module, weights_path: Path | str) -> tuple[list[str], list[str]]:
    """Loads published weights, or one of our own checkpoints, into a model of `create_model`.

    Args:
        name: the model's.
        model: changed in place.
        weights_path: a local file or folder; see `load_pretrained` in the model's module.

    Returns:
        Names of the model's tensors that were loaded, and of those left fresh.

    Raises:
        InputError: the file holds no weights, or not this model's.
    """
    return _LOADERS[name](model, weights_path)
