"""A model that outlives its batches: too little memory halves them, then the CPU takes over; a NaN is tried again."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..config import Inference
from ..inference.loading import load_predictors
from ..inference.predictor import Predictor
from .faults import Faults

# How torch, CUDA's libraries and the system say that memory has run out. A library that cannot be set up, or finds no
# algorithm that fits, mostly lacks room for its workspace; where it lacks something else the CPU takes over as well.
_NO_ROOM = (
    "out of memory",
    "out_of_memory",
    "not enough memory",
    "insufficient memory",
    "allocate memory",
    "failed to allocate",
    "bad_alloc",
    "bad allocation",
    "memoryallocation",
    "alloc_failed",
    "unable to find an engine",
    "no valid execution plan",
    "no execution plan",
    "cublas_status_not_initialized",
    "cudnn_status_not_initialized",
)


class OutOfMemoryFallback(nn.Module):
    """Gives what the model gives, in smaller portions where the memory asks for it.

    Args:
        model: maps a batch of tensors to logits.
        faults: gets a note of each step down; a strict run ends with it.
    """

    def __init__(self, model: nn.Module, faults: Faults):
        super().__init__()
        self.model, self.faults = model, faults
        self.largest = sys.maxsize
        """Inputs that fit into memory at once; 0: not even one on the GPU, which then is left alone."""

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) → logits (N, outputs, h, w) on the device of the input.

        A NaN that float32 does not cure stays, for the slice it belongs to to be known.
        """
        parts, at = [], 0
        while at < len(tensor):
            part = tensor[at : at + max(1, self.largest)]
            logits = self._attempt(part)
            if logits is not None:
                parts.append(logits)
                at += len(part)
        return torch.cat(parts)

    def _attempt(self, part: torch.Tensor) -> torch.Tensor | None:
        """The logits of a portion; None where it did not fit, and the next is to be smaller."""
        try:
            if self.largest == 0:
                return self.model(part.cpu()).to(part.device)
            return self._without_nan(part)
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_out_of_memory(error) or (len(part) == 1 and (self.largest == 0 or not part.is_cuda)):
                raise
        # Outside the except block, whose exception would keep the failed pass's tensors alive.
        self.largest = len(part) // 2
        self.faults.note(
            f"model on {part.device}",
            f"not enough memory for {len(part)} input(s) of {'x'.join(map(str, part.shape[1:]))}: choose a smaller "
            f"batch_size or sw_batch_size",
            f"goes on with {self.largest} at once" if self.largest else "goes on on the CPU",
        )
        if self.largest == 0:
            self.model.cpu()
        if part.is_cuda:
            torch.cuda.empty_cache()
        return None

    def _without_nan(self, part: torch.Tensor) -> torch.Tensor:
        logits = self.model(part)
        if torch.is_autocast_enabled(part.device.type) and logits.isnan().any():
            self.faults.note(
                f"model on {part.device}",
                "a NaN in the logits: choose precision float32",
                "inputs that give one are computed again in float32",
            )
            with torch.autocast(part.device.type, enabled=False):
                logits = self.model(part.float())
        return logits


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out, in one of the ways that torch has of saying so."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_ROOM)


def is_alive(device: torch.device) -> bool:
    """Whether a device still computes: after some errors a GPU does not, for the rest of the process."""
    try:
        return bool((torch.ones(1, device=device) + 1).item() == 2)
    except RuntimeError:
        return False


def load_with_fallback(paths: Sequence[Path], inference: Inference, faults: Faults) -> list[Predictor]:
    """Loads checkpoints as `load_predictors` does; models of logits then outlive a lack of memory."""
    predictors = load_predictors(paths, inference)
    return [
        predictor
        if hasattr(predictor.model, "segment")
        else replace(predictor, model=OutOfMemoryFallback(predictor.model, faults))
        for predictor in predictors
    ]
