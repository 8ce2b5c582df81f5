"""A trained model as one safetensors file that describes itself; nothing is ever unpickled."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from ..checks import check_values
from ..config import Preprocessing
from ..errors import InputError, one_line
from ..files import replacing
from . import create_model
from .file_kinds import describe_content
from .weights import CARD_KEY

# What a card that is damaged, or of another version, makes of itself.
_CARD_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Card:
    """What a checkpoint says about itself, stored as JSON in the file's metadata."""

    model: str
    model_arguments: dict[str, Any]
    preprocessing: Preprocessing
    threshold: float
    """Probability above which a pixel is vessel."""
    trained_on: tuple[str, ...] = ()
    """Ids of the slices the weights were fitted to."""
    scores: dict[str, float | None] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    """The training run's settings."""
    image_digests: dict[str, str] = field(default_factory=dict)
    """What `identity.image_digest` gives for the images learned from and for those held out, by slice id; empty in
    files of earlier versions."""
    voxel_size_um: float | None = None
    """Of the scans learned from, where it is known; not in files that learned from the competition's kidneys, whose
    voxel sizes are known by their names."""

    @property
    def says_what_it_learned(self) -> bool:
        """Whether `trained_on` is all that the weights were fitted to; of foreign weights it is not known."""
        return bool(self.trained_on) and not self.training.get("source_unknown", False)


def save_checkpoint(path: Path | str, model: nn.Module, card: Card, *, half: bool = False) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: the .safetensors file to make.
        model: its weights are saved.
        card: must name the model and the arguments it was made with.
        half: store the weight matrices and kernels in float16, which halves the file; biases and
            BatchNorm's statistics stay in float32.
    """
    tensors = {
        name: (tensor.half() if half and tensor.ndim >= 2 else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    _write(path, tensors, card)


def replace_card(path: Path | str, card: Card) -> None:
    """Gives a checkpoint another card; its weights stay as they are."""
    _write(path, safetensors.torch.load_file(path), card)


def read_card(path: Path | str) -> Card:
    """Reads what a checkpoint says about itself, without its weights.

    Raises:
        InputError: the file is missing, truncated, not safetensors, or was not written by `save_checkpoint`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} {_why_no_file(path)}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        what, remedy = describe_content(path) or (one_line(error), "copy or train it again")
        raise InputError(f"checkpoint {path} is truncated or not a safetensors file ({what}): {remedy}") from error
    if CARD_KEY not in metadata:
        raise InputError(
            f"checkpoint {path} has no card: expected a file made by `sennet_kaggle train` or `pack`, "
            f"found safetensors metadata {_shown(sorted(metadata))}"
        )
    try:
        return card_from_fields(json.loads(metadata[CARD_KEY]))
    except _CARD_ERRORS as error:
        raise InputError(f"checkpoint {path} has a card that this version cannot read: {one_line(error)}") from error


def check_card(card: Card) -> None:
    """Raises InputError for a card that `read_card` would refuse, before there is a file with it."""
    try:
        card_from_fields(json.loads(json.dumps(dataclasses.asdict(card))))
    except InputError:
        raise
    except _CARD_ERRORS as error:
        raise InputError(f"these settings are none that a checkpoint can have: {one_line(error)}") from error


def card_from_fields(fields: dict[str, Any]) -> Card:
    """Makes a card of what JSON kept of it.

    Raises:
        ValueError, KeyError, TypeError or AttributeError: whatever is wrong with it.
    """
    changed = {
        "preprocessing": _preprocessing_from(fields["preprocessing"]),
        "trained_on": tuple(fields["trained_on"]),
    }
    card = Card(**{**fields, **changed})
    check_values(card)
    return card


def load_checkpoint(path: Path | str) -> tuple[nn.Module, Card]:
    """Builds the model that a checkpoint describes and loads its weights.

    Returns:
        The model in evaluation mode on the CPU in float32, and its card.

    Raises:
        InputError: as `read_card`, or the weights do not fit the model that the card names.
    """
    card = read_card(path)
    if "weights_path" in card.model_arguments:
        raise InputError(f"checkpoint {path} names a further file of weights: expected all of them in this one")
    try:
        tensors = safetensors.torch.load_file(path)
        # Without memory first: what a damaged card asks for may be larger than the machine.
        with torch.device("meta"):
            create_model(card.model, **card.model_arguments).load_state_dict(tensors, assign=True)
        model = create_model(card.model, **card.model_arguments)
        model.load_state_dict(tensors)
    except ImportError:  # a package that is missing
        raise
    except Exception as error:  # InputError, RuntimeError, KeyError: whatever the card and the file make of it
        raise InputError(
            f"checkpoint {path} does not fit the model {card.model!r} it names: {one_line(error)}"
        ) from error
    _check_finite(path, tensors)
    return model.eval().requires_grad_(False), card


def _write(path: Path | str, tensors: dict[str, torch.Tensor], card: Card) -> None:
    fields = dataclasses.asdict(card)
    if card.voxel_size_um is None:
        del fields["voxel_size_um"]  # earlier versions do not know it
    metadata = {CARD_KEY: json.dumps(fields, sort_keys=True)}
    with replacing(path) as temporary_path:
        safetensors.torch.save_file(tensors, temporary_path, metadata)


def _why_no_file(path: Path) -> str:
    if path.is_dir():
        return "is a folder: name the file in it"
    if path.is_symlink():
        return f"is a link to {path.readlink()}, which is not there: put the file itself there"
    return "is missing"


def _check_finite(path: Path | str, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(
                f"checkpoint {path} must hold finite numbers, found others in {name}, as after a training that "
                f"diverged or a number too large for float16: train or pack it again"
            )


def _preprocessing_from(fields: dict[str, Any]) -> Preprocessing:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    preprocessing = Preprocessing(**values)
    preprocessing.check()
    return preprocessing


def _shown(value: Any) -> str:
    return repr(value)[:100]
