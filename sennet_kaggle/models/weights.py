"""Weights as their makers publish them: local files → tensors by name."""

import pickle
from pathlib import Path

import safetensors.torch
import torch

from ..errors import InputError

_NAMES_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")


def load_weights_file(path: Path | str) -> dict[str, torch.Tensor]:
    """Reads tensors from a local file or HuggingFace folder; no hub is ever asked.

    Args:
        path: a .safetensors file, a .pth/.pt/.bin file (read by torch's restricted loader, which admits
            tensors and plain containers but no code), or a folder with model.safetensors or, failing
            that, pytorch_model.bin.

    Returns:
        Tensors on the CPU by name.

    Raises:
        InputError: there is no such file, it is truncated, or it holds something else than tensors.
    """
    path = _choose_file(Path(path))
    try:
        if path.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message recommends the unsafe loader, so it is not repeated here.
        raise InputError(
            f"weights {path} must hold tensors by name, found other pickled objects or damage (refused, nothing "
            f"was run): copy the file again, or save its tensors as .safetensors"
        ) from error
    except Exception as error:  # both loaders raise many kinds on damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"weights {path} must be a whole file of tensors, found damage ({reason}): copy it again"
        ) from error
    _check_tensors(path, tensors)
    return tensors


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


def _check_tensors(path: Path, tensors: object) -> None:
    found = type(tensors).__name__
    if isinstance(tensors, dict):
        wrong = [name for name, tensor in tensors.items() if not isinstance(tensor, torch.Tensor)]
        if tensors and not wrong:
            return
        found = f"{type(tensors[wrong[0]]).__name__} under {wrong[0]!r}" if wrong else "none"
    raise InputError(f"weights {path} must hold tensors by name, found {found}: save the model's state_dict alone")
