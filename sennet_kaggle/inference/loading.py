"""Checkpoints → predictors on a device, ready to run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..config import DEFAULT_INFERENCE, Inference, Preprocessing
from ..distributed import local_rank
from ..errors import InputError, tell, warn
from ..files import shipped_checkpoints
from ..models.checkpoint import load_checkpoint
from .batching import choose_threads
from .predictor import Predictor


def create_predictor(
    model: nn.Module, preprocessing: Preprocessing, threshold: float, inference: Inference
) -> Predictor:
    """Puts a model on its device behind the seam.

    Args:
        model: of `create_model`.
        preprocessing: the settings it was trained with.
        threshold: its own; `inference.threshold` goes before it.
        inference: device and precision.

    Raises:
        InputError: a setting out of range, a device that is not there, or Segment Anything with settings that
            only a model of logits can follow.
    """
    inference.check()
    preprocessing.check()
    if hasattr(model, "segment"):
        _check_segmenter(preprocessing, inference)
    threshold = threshold if inference.threshold is None else inference.threshold
    if not 0 <= threshold < 1:
        raise InputError(f"threshold must lie in 0..1 (1 excluded), got {threshold}")
    device = pick_device(inference.device)
    precision = inference.precision
    if precision == "auto":
        precision = "float16" if device.type == "cuda" else "float32"
    model, threads = model.eval().to(device), choose_threads(device)
    if hasattr(model, "segment"):
        return Predictor(model, preprocessing, threshold, device, getattr(torch, precision))
    if inference.backend == "openvino":
        return Predictor(
            _on_openvino(model, device, inference, threads), preprocessing, threshold, device, threads=threads
        )
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    if inference.compile:
        model.compile()
    return Predictor(model, preprocessing, threshold, device, getattr(torch, precision), threads)


def load_predictors(
    checkpoint_paths: Sequence[Path | str] | None = None, inference: Inference = DEFAULT_INFERENCE
) -> list[Predictor]:
    """Loads checkpoints as the members of one ensemble.

    Segment Anything, whose masks are not averaged over views, takes none; that is said.

    Args:
        checkpoint_paths: .safetensors files; the shipped ones when not given.
        inference: device, precision, backend and threshold.

    Raises:
        InputError: there is none, or one cannot be loaded (see `load_checkpoint`).
    """
    checkpoint_paths = shipped_checkpoints() if checkpoint_paths is None else checkpoint_paths
    if not checkpoint_paths:
        raise InputError("no checkpoint given: expected at least one .safetensors file")
    loaded = [load_checkpoint(path) for path in checkpoint_paths]
    predictors = [
        create_predictor(model, card.preprocessing, card.threshold, _possible_for(model, inference))
        for model, card in loaded
    ]
    for path, predictor in zip(checkpoint_paths, predictors, strict=True):
        parameters = sum(parameter.numel() for parameter in predictor.model.parameters())
        precision = str(predictor.dtype).removeprefix("torch.")
        tell(
            f"{path}: {parameters:,} parameters, on {predictor.device} in {precision}, {predictor.threads} thread(s), "
            f"threshold {predictor.threshold:g}"
        )
    return predictors


def pick_device(device: str) -> torch.device:
    """Turns a device setting into a device.

    Args:
        device: "auto" (a GPU where there is one; each process of torchrun takes another), "cpu", "cuda" or "cuda:N".

    Raises:
        InputError: an unknown device, or a GPU where there is none.
    """
    if device == "auto":
        device = f"cuda:{local_rank() % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}") from error
    gpus = torch.cuda.device_count()
    if picked.type != "cpu" and (picked.type != "cuda" or (picked.index or 0) >= gpus):
        raise InputError(f"device {device!r} is not on this machine, which has a CPU and {gpus} GPU(s)")
    return picked


def _on_openvino(model: nn.Module, device: torch.device, inference: Inference, threads: int) -> nn.Module:
    from ..models.openvino_model import OpenVinoModel

    if device.type != "cpu":
        raise InputError(f"backend openvino runs on the CPU, found device {device}: choose device cpu")
    return OpenVinoModel(model, inference.precision, threads)


def _possible_for(model: nn.Module, inference: Inference) -> Inference:
    """The settings without views where a model takes none."""
    if hasattr(model, "segment") and inference.tta != "none":
        warn(f"Segment Anything answers with masks, which are not averaged over views: no {inference.tta} for it")
        return replace(inference, tta="none")
    return inference


def _check_segmenter(preprocessing: Preprocessing, inference: Inference) -> None:
    settings = (preprocessing.region, any(preprocessing.offsets), inference.axes, inference.tta, inference.average)
    if settings != ("whole", False, "z", "none", "probability"):
        raise InputError(
            "Segment Anything proposes masks of whole slices, one by one: leave region whole, offsets 0, axes z, "
            f"tta none and average probability, got region {settings[0]}, offsets {preprocessing.offsets}, "
            f"axes {settings[2]}, tta {settings[3]} and average {settings[4]}"
        )
