"""The model of a training run: whether its settings fit together, and with which weights it starts."""

import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..config import Preprocessing, Training
from ..errors import InputError, one_line, warn
from ..models import MODELS, create_model
from ..models.checkpoint import Card, load_checkpoint, read_card
from ..models.weights import read_own_card

# A weight, its gradient and Adam's two averages, in float32.
_BYTES_PER_PARAMETER = 16


def model_arguments(training: Training) -> dict[str, Any]:
    """The arguments that the model is made with, but for its weights; the card's too."""
    preprocessing = training.preprocessing
    arguments = {"in_channels": preprocessing.in_channels}
    if preprocessing.outputs == "all":
        arguments["out_channels"] = len(preprocessing.output_offsets)
    return {**arguments, **training.model_arguments}


def check_model(training: Training, slices: int = 2) -> None:
    """Builds the model and runs it, on shapes alone: no memory, no weights, no data.

    Args:
        training: the settings.
        slices: in the smallest pass of the training.

    Raises:
        InputError: the model does not exist, is not trained, or refuses its arguments; they contradict the
            preprocessing; it cannot take or give images of the preprocessing's size; or it does not train a part
            whose weights are fresh.
    """
    accepted = inspect.signature(MODELS[training.model]).parameters if training.model in MODELS else {"in_channels"}
    if "in_channels" not in accepted:
        raise InputError(f"model {training.model!r} is not trained: choose another, or the command sam-zero-shot")
    _check_contradictions(training)
    arguments = model_arguments(training)
    if training.weights_path is not None and "weights_path" not in accepted:
        arguments["weights_path"] = training.weights_path  # refused by name
    with torch.device("meta"):
        model = create_model(training.model, **arguments)
    _check_memory(training, model)
    _check_not_frozen(training, model)
    size = training.window_size or training.preprocessing.roi_size
    check_forward(training.model, model.eval(), training.preprocessing, 1, training.preprocessing.roi_size)
    check_forward(training.model, model.train(), training.preprocessing, slices, size)


def check_forward(name: str, model: nn.Module, preprocessing: Preprocessing, slices: int, size: int) -> None:
    """Runs a model on so many images of a size, on shapes alone.

    Raises:
        InputError: it fails, or gives something else than an output per slice that the preprocessing names.
    """
    state = {name: tensor.to("meta") for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    image = torch.empty(slices, preprocessing.in_channels, size, size, device="meta")
    what = f"model {name!r} cannot take {slices} image(s) of {preprocessing.in_channels} x {size} x {size}"
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.device("meta"):
            shape = tuple(torch.func.functional_call(model, state, image).shape)
    except Exception as error:  # models raise many kinds
        remedy = "choose another roi_size, window_size or batch_size, or other model_arguments"
        raise InputError(f"{what} ({one_line(error)}): {remedy}") from error
    expected = (slices, len(preprocessing.output_offsets), size, size)
    if shape != expected:
        raise InputError(
            f"outputs {preprocessing.outputs!r} needs {expected[1]} output(s) of {size} x {size} per image, but the "
            f"model gives {' x '.join(map(str, shape[1:]))}: leave out_channels out of model_arguments"
        )


def create_initial_model(training: Training) -> nn.Module:
    """Builds the model with the weights that the training starts from.

    Raises:
        InputError: as `check_model`, or weights that are missing, damaged or another model's.
    """
    arguments = model_arguments(training)
    if training.weights_path is not None:
        arguments["weights_path"] = training.weights_path
    model = create_model(training.model, **arguments)
    if training.init_from is not None:
        _check_same_model(training, training.init_from)
        model.load_state_dict(load_checkpoint(training.init_from)[0].state_dict())
    return model


def check_shared(model: nn.Module) -> None:
    """Raises InputError for a model that several processes would not train as one does."""
    for module in model.modules():
        if type(module).__name__.startswith("EvoNorm2dB"):  # its batch statistics are its own affair, see timm
            raise InputError(
                f"{type(module).__name__} takes statistics over the slices of one process alone: train with one "
                f"process, or choose another encoder"
            )


def source_card(training: Training) -> Card | None:
    """The card of the checkpoint of ours that the training starts from; None for fresh or foreign weights."""
    path = training.init_from or training.weights_path
    if path is None or (training.init_from is None and read_own_card(path) is None):
        return None
    return read_card(path)


def _check_contradictions(training: Training) -> None:
    expected = model_arguments(replace(training, model_arguments={}))
    for name, given in training.model_arguments.items():
        if name in expected and given != expected[name]:
            raise InputError(
                f"model_arguments has {name} {given!r}, but the preprocessing makes it {expected[name]} (offsets "
                f"{training.preprocessing.offsets}, mean {training.preprocessing.mean}): leave it out"
            )
        if name == "weights_path":
            raise InputError("model_arguments has weights_path, which is a setting of its own: give --weights-path")


def _check_memory(training: Training, model: nn.Module) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if parameters * _BYTES_PER_PARAMETER > memory:
        raise InputError(
            f"model {training.model!r} with {training.model_arguments} has {parameters} parameters, too many to train "
            f"in this machine's {memory / 1e9:.0f} GB of memory: choose a smaller one"
        )


def _check_not_frozen(training: Training, model: nn.Module) -> None:
    """Refuses fresh weights for what stays in evaluation while the model is trained: it would never learn."""
    frozen = [name for name, module in model.train().named_modules() if not module.training]
    if frozen and training.weights_path is None and training.init_from is None:
        raise InputError(
            f"model {training.model!r} with {training.model_arguments} does not train its {frozen[0]}, and no "
            f"published weights are given: give --weights-path"
        )


def _check_same_model(training: Training, init_from: str) -> None:
    card = read_card(init_from)
    if card.model != training.model:
        raise InputError(
            f"init_from {training.init_from} is a {card.model!r}, but this run trains a {training.model!r}: choose a "
            f"checkpoint of the same model"
        )
    ours, theirs = (
        _with_defaults(training.model, arguments) for arguments in (model_arguments(training), card.model_arguments)
    )
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise InputError(
                f"init_from {training.init_from} was made with {name} {theirs.get(name)!r}, this run has {value!r}: "
                f"give the same model_arguments and channels"
            )
    for name, value in vars(training.preprocessing).items():
        if name != "roi_size" and getattr(card.preprocessing, name) != value:
            warn(
                f"init_from {training.init_from} learned with {name} {getattr(card.preprocessing, name)}, this run "
                f"gives it {value}"
            )


def _with_defaults(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a model's builder, as JSON has them."""
    parameters = inspect.signature(MODELS[name]).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters if parameter.name != "weights_path"}
    return json.loads(json.dumps({**defaults, **arguments}))
