"""A batch of windows → scores: the forward pass, over every view of them."""

import torch
from torch import nn

from ..config import Inference, Preprocessing
from ..errors import InputError

# Quarter turns, and whether a left-right flip goes before them.
VIEWS = {
    "none": [(0, False)],
    "flips": [(0, False), (2, False), (0, True), (2, True)],
    "d4": [(turns, flip) for flip in (False, True) for turns in range(4)],
}
_MAX_LOGIT = 30.0


def forward(
    model: nn.Module, tensor: torch.Tensor, preprocessing: Preprocessing, dtype: torch.dtype, inference: Inference
) -> torch.Tensor:
    """Runs a model on all views of a batch and averages them.

    Args:
        model: maps (N, C, h, w) to logits (N, outputs, h, w).
        tensor: (N, C, h, w) float32 on the model's device.
        preprocessing: says which of the model's outputs count.
        dtype: arithmetic of the forward pass; other than float32 by autocast.
        inference: the views, and whether probabilities or logits are averaged.

    Returns:
        Scores (N, outputs, h, w) float32.
    """
    views = VIEWS[inference.tta]
    scores = (_forward_view(model, tensor, *view, preprocessing, dtype, inference) for view in views)
    total = sum(scores, next(scores))  # begins with the first one, which may be the only one
    return total / len(views) if len(views) > 1 else total


def to_probability(score: torch.Tensor, inference: Inference) -> torch.Tensor:
    """Turns a mean score (H, W) float32 into a probability (H, W) float32 in 0..1."""
    return score if inference.average == "probability" else score.sigmoid()


def background_score(inference: Inference) -> float:
    """The score of what is surely no vessel."""
    return 0.0 if inference.average == "probability" else -_MAX_LOGIT


def _forward_view(
    model: nn.Module,
    tensor: torch.Tensor,
    turns: int,
    flip: bool,
    preprocessing: Preprocessing,
    dtype: torch.dtype,
    inference: Inference,
) -> torch.Tensor:
    view = _turn(tensor.flip(-1) if flip else tensor, turns)
    view = view.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(tensor.device.type, dtype, dtype != torch.float32):
        logits = model(view)
    logits = _outputs(_turn(logits, -turns).float(), preprocessing)
    logits = logits.flip(-1) if flip else logits
    return logits.sigmoid() if inference.average == "probability" else logits.clamp(-_MAX_LOGIT, _MAX_LOGIT)


def _outputs(logits: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """The channels of the logits that count."""
    if preprocessing.outputs == "centre":
        return logits[:, :1]
    if logits.shape[1] != preprocessing.in_channels:
        raise InputError(
            f"outputs 'all' needs a model with {preprocessing.in_channels} outputs, one per input channel, "
            f"got {logits.shape[1]}: make it with out_channels, or choose outputs 'centre'"
        )
    return logits


def _turn(tensor: torch.Tensor, turns: int) -> torch.Tensor:
    """Quarter turns of (N, C, h, w); none is no copy."""
    return torch.rot90(tensor, turns, (-2, -1)) if turns else tensor
