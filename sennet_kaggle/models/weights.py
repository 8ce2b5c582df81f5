"""Weights as their makers publish them: local files → tensors by name → those of a model."""

import json
import pickle
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import safetensors
import safetensors.torch
import torch

from ..errors import InputError
from .file_kinds import describe_content, describe_tensors, looks_like_safetensors

CARD_KEY = "sennet_kaggle"
"""Where the metadata of our own checkpoints has their card."""
_NAMES_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")
_MAX_NESTING = 3
COUNTER = ".num_batches_tracked"
"""Ends the names of tensors that count training steps, which changes no output; old files lack them."""
# What torch.compile and FSDP put into names, at any place.
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# A prefix is looked for among the first parts of names that this share of them has.
_PREFIX_PARTS, _PREFIX_SHARE = 4, 0.2


class Match(NamedTuple):
    """What a file has of a model."""

    source: Mapping[str, torch.Tensor]
    """All that the file has."""
    tensors: dict[str, torch.Tensor]
    """By the model's names; some may be missing."""
    unknown: list[str]
    """Names beside those, under the same prefix, that the model does not have."""


def load_weights_file(path: Path | str, model: str | None = None) -> dict[str, torch.Tensor]:
    """Reads tensors from a local file or HuggingFace folder; no hub is ever asked.

    Args:
        path: a .safetensors file, a .pth/.pt/.bin file (read by torch's restricted loader, which admits
            tensors and plain containers but no code), or a folder with model.safetensors or, failing
            that, pytorch_model.bin. The tensors may lie in a container, such as {"state_dict": …, "epoch": 3}.
        model: whose weights are wanted; one of our own checkpoints must be of this model.

    Returns:
        Tensors on the CPU by name, without the names' parts that torch.compile and FSDP add.

    Raises:
        InputError: there is no such file, it is truncated, or it holds something else than tensors; the message
            names what it is.
    """
    path = _choose_file(Path(path))
    _check_own_model(path, model)
    kind = describe_content(path)
    if kind:
        raise InputError(f"weights {path} must be a whole file of tensors, found {kind.what}: {kind.remedy}")
    try:
        if looks_like_safetensors(path):
            content = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # about the format of old files
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message recommends the unsafe loader, so only the object's name is taken from it.
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"a pickled {found[1]}" if found else "other pickled objects or damage"
        remedy = "save the model's state_dict alone" if found else "copy the file again, or save its tensors"
        raise InputError(
            f"weights {path} must hold tensors by name, found {what} (refused, nothing was run): {remedy}, best as "
            f".safetensors"
        ) from error
    except Exception as error:  # both loaders raise many kinds on damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"weights {path} must be a whole file of tensors, found damage ({reason}): copy it again"
        ) from error
    tensors = {_WRAPPERS.sub("", name): tensor for name, tensor in _unwrap(path, content).items()}
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.layout is not torch.strided:
            what = "one without values" if tensor.is_meta else "a sparse one"
            raise InputError(f"weights {path} must hold dense tensors, found {what}, {name}: save them whole")
    return tensors


def read_own_card(path: Path | str) -> dict[str, Any] | None:
    """The card of one of our own checkpoints as it stands in its metadata; None for any other file."""
    path = Path(path)
    if not path.is_file() or not looks_like_safetensors(path):
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get(CARD_KEY, "null"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError):
        return None
    return card if isinstance(card, dict) else None


def match_names(
    tensors: Mapping[str, torch.Tensor],
    names: Collection[str],
    added: Sequence[str] = ("",),
    key: Callable[[str], str] = str,
) -> Match:
    """Finds a model's tensors in a file whose names may have a prefix, such as "module." or "model.encoder.".

    Each prefix that many names share is tried, and that which leaves most of the model's names is dropped.

    Args:
        tensors: of the file.
        names: of the model.
        added: what the file's names may lack at their beginning.
        key: of names; those of the same key are the same.

    Raises:
        InputError: the file has the model twice, such as "student." and "teacher.".
    """
    wanted = {key(name): name for name in names}
    candidates = []
    for prefix in _shared_prefixes(tensors):
        inside = [name for name in tensors if name.startswith(prefix)]
        for more in added:
            own = {name: wanted.get(key(more + name.removeprefix(prefix))) for name in inside}
            candidates.append((prefix, {mine: name for name, mine in own.items() if mine}, own))
    most = max(len(sources) for _, sources, _ in candidates)
    prefix, sources, own = next(candidate for candidate in candidates if len(candidate[1]) == most)
    if 2 * most > len(wanted):
        for other, others, _ in candidates:
            if len(others) == most and not set(others.values()) & set(sources.values()):
                raise InputError(
                    f"the file of weights holds this model twice, as {prefix}* and {other}*: save the tensors of one"
                )
    unknown = [name for name, mine in own.items() if mine is None]
    return Match(tensors, {mine: tensors[name] for mine, name in sources.items()}, unknown)


def fits(tensor: torch.Tensor | None, own: torch.Tensor) -> bool:
    """Whether a tensor of a file can take the place of a model's own."""
    return (
        tensor is not None and tensor.shape == own.shape and (tensor.is_floating_point() or not own.is_floating_point())
    )


def check_fit(
    path: Path | str, match: Match, wanted: Mapping[str, torch.Tensor], complaint: str, remedy: str, whole: bool = False
) -> None:
    """Raises InputError for the first tensor of a model that a file lacks or has otherwise.

    Args:
        path: the file.
        match: what it has of the model.
        wanted: the model's tensors that it must have.
        complaint: "are not of this SegFormer", for the message.
        remedy: what to do.
        whole: it must have nothing beside those.
    """
    kind = describe_tensors(match.source)
    for name, own in wanted.items():
        tensor = match.tensors.get(name)
        if fits(tensor, own) or (tensor is None and name.endswith(COUNTER)):
            continue
        expected = f"{name} must be {tuple(own.shape)}"
        found = "nothing" if tensor is None else str(tuple(tensor.shape))
        if tensor is not None and tensor.shape == own.shape:
            expected, found = f"{name} must hold floating-point numbers", f"{tensor.dtype}, as of a quantised model"
            remedy = "give the weights before they were quantised"
        raise InputError(f"weights {path} {complaint}: the file holds {kind}, and {expected}, found {found}; {remedy}")
    if whole and match.unknown:
        raise InputError(
            f"weights {path} {complaint}: the file holds {kind}, and {match.unknown[0]} has no place; {remedy}"
        )


def describe_loaded(loaded: Collection[str], fresh: Sequence[str]) -> str:
    """For the log."""
    return f"{len(loaded)} tensors loaded" + (f", {len(fresh)} left fresh: {', '.join(fresh)}" if fresh else "")


def _choose_file(path: Path) -> Path:
    if path.is_dir():
        for name in _NAMES_IN_FOLDER:
            if (path / name).is_file():
                return path / name
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise InputError(f"weights folder {path} must hold {' or '.join(_NAMES_IN_FOLDER)}, found {found}: add one")
    if not path.is_file():
        raise InputError(f"weights {path} are missing: give a local file or folder, nothing is downloaded")
    return path


def _check_own_model(path: Path, model: str | None) -> None:
    found = (read_own_card(path) or {}).get("model")
    if model is not None and found is not None and found != model:
        raise InputError(
            f"weights {path} must be of the model {model!r}, found a checkpoint of this package of the model "
            f"{found!r}: choose the model {found!r}"
        )


def _unwrap(path: Path, content: object) -> dict[str, torch.Tensor]:
    """The tensors by name, out of the containers that training programs put them into."""
    for _ in range(_MAX_NESTING):
        if _holds_tensors(content):
            return content
        entries = content.items() if isinstance(content, dict) else ()
        inner = {name: value for name, value in entries if isinstance(value, dict)}
        inside = [name for name, value in inner.items() if _holds_tensors(value)]
        if len(inside) > 1:
            raise InputError(
                f"weights {path} must hold tensors by name, found them under {' and '.join(map(repr, inside))}: save "
                f"one of these alone"
            )
        deeper = inside or [name for name, value in inner.items() if any(map(_holds_tensors, value.values()))]
        if len(deeper) != 1:
            break
        content = inner[deeper[0]]
    raise InputError(
        f"weights {path} must hold tensors by name, found {_shown(content)}: save the model's state_dict alone"
    )


def _holds_tensors(content: object) -> TypeGuard[dict[str, torch.Tensor]]:
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items())


def _shown(content: object) -> str:
    if not isinstance(content, dict):
        return type(content).__name__
    wrong = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        return f"{type(content[wrong[0]]).__name__} under {wrong[0]!r}"
    return "tensors by numbers" if content else "none"


def _shared_prefixes(names: Collection[str]) -> list[str]:
    """The first parts that many names have in common, the shortest first; the empty one among them."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for length in range(1, min(_PREFIX_PARTS, len(parts) - 1) + 1):
            prefix = ".".join(parts[:length]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    shared = (prefix for prefix, count in counts.items() if count >= _PREFIX_SHARE * len(names))
    return ["", *sorted(shared, key=len)]
