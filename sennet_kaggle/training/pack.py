"""Published weights → a checkpoint, once everything that would make it wrong or unreadable has been ruled out."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import Inference, Preprocessing
from ..errors import InputError, warn
from ..files import check_output
from ..inference.loading import create_predictor
from ..models import MODELS, create_model, load_pretrained
from ..models.checkpoint import Card, check_card, read_card, save_checkpoint
from ..models.weights import COUNTER, read_own_card
from .training_model import check_forward

_DEFAULT_THRESHOLD = 0.5
_NOT_FOR_SAM = ("roi_size", "outputs", "mean", "std")


def pack(
    model: str,
    weights_path: Path,
    output: Path,
    model_arguments: dict[str, Any],
    preprocessing: Preprocessing,
    threshold: float | None,
) -> None:
    """Makes a checkpoint of weights whose model needs no training any more.

    Args:
        model: a name that `create_model` knows.
        weights_path: see `models.weights.load_weights_file`. Of one of our own checkpoints the card is kept, but for
            the settings that are given here.
        output: the checkpoint to make.
        model_arguments: further arguments of the model.
        preprocessing: what the model's input is.
        threshold: probability above which a pixel is vessel; None is 0.5.

    Raises:
        InputError: no such folder for the output; settings that no checkpoint can have or that contradict each
            other; weights that are none, that are another model's, that leave a tensor of the model without a value
            or that are no finite numbers.
    """
    check_output(output, (weights_path,))
    if model == "sam":
        _check_unused(preprocessing)
    card = _make_card(model, weights_path, model_arguments, preprocessing, threshold)
    check_card(card)
    if not 0 <= card.threshold < 1:
        raise InputError(f"threshold must lie in 0..1 (1 excluded), got {card.threshold}")
    network = _build(card)
    if model != "sam":
        check_forward(model, network.eval(), card.preprocessing, 1, card.preprocessing.roi_size)
    _, fresh = load_pretrained(model, network, weights_path)
    _check_complete(weights_path, network, fresh)
    create_predictor(
        network, card.preprocessing, card.threshold, Inference(device="cpu")
    )  # raises for Segment Anything
    save_checkpoint(output, network, card)


def _make_card(
    model: str,
    weights_path: Path,
    model_arguments: dict[str, Any],
    preprocessing: Preprocessing,
    threshold: float | None,
) -> Card:
    """The checkpoint's card: of settings alone, or of that which the weights have already."""
    own = read_own_card(weights_path)
    if own is None or own.get("model") != model:
        return Card(model, model_arguments, preprocessing, _DEFAULT_THRESHOLD if threshold is None else threshold)
    card = read_card(weights_path)
    if preprocessing == Preprocessing():
        preprocessing = card.preprocessing
    elif preprocessing != card.preprocessing:
        warn(f"{weights_path} was trained with another preprocessing, {card.preprocessing}: its scores are left out")
    threshold = card.threshold if threshold is None else threshold
    same = (preprocessing, threshold) == (card.preprocessing, card.threshold)
    return dataclasses.replace(
        card,
        model_arguments=model_arguments or card.model_arguments,
        preprocessing=preprocessing,
        threshold=threshold,
        scores=card.scores if same else {},
    )


def _check_unused(preprocessing: Preprocessing) -> None:
    """Settings that would be in the card and change nothing."""
    unused = [name for name in _NOT_FOR_SAM if getattr(preprocessing, name) != getattr(Preprocessing(), name)]
    if unused:
        raise InputError(
            f"Segment Anything must be given whole slices as 8-bit pictures, scaled by itself, found a setting of "
            f"{' and '.join(unused)}, which it cannot follow: leave that out"
        )


def _build(card: Card) -> nn.Module:
    """The model with fresh weights, if its channels are those of its input."""
    arguments = card.model_arguments
    if "weights_path" in arguments:
        raise InputError("the weights are given by --weights-path: leave weights_path out of the model's arguments")
    network = create_model(card.model, **arguments)
    defaults = inspect.signature(MODELS[card.model]).parameters
    channels = {
        name: arguments.get(name, defaults[name].default)
        for name in ("in_channels", "out_channels")
        if name in defaults
    }
    found = card.preprocessing.in_channels
    if channels.get("in_channels", found) != found:
        raise InputError(
            f"the model's in_channels must be the channels of its input, found {channels['in_channels']}, but {found} "
            f"by offsets {card.preprocessing.offsets} and mean {card.preprocessing.mean}: change one of them"
        )
    outputs = channels.get("out_channels", 1)
    if card.preprocessing.outputs == "all" and outputs != found:
        raise InputError(
            f"outputs 'all' needs a model with {found} outputs, one per input channel, found {outputs}: make it with "
            f"out_channels, or choose outputs 'centre'"
        )
    return network


def _check_complete(weights_path: Path, network: nn.Module, fresh: list[str]) -> None:
    """Every tensor has a value from the file, and a finite one."""
    random = [name for name in fresh if not name.endswith(COUNTER)]
    if random:
        raise InputError(
            f"weights {weights_path} must be of a whole model, found none for {len(random)} of its tensors "
            f"({', '.join(random[:3])}{', …' if len(random) > 3 else ''}), which would be random: train it first, "
            f"train --weights-path {weights_path}"
        )
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"weights {weights_path} must be finite numbers, found others in {name}: take another file"
            )
