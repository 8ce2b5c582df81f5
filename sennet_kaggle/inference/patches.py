"""A slice → the windows that a model sees of it, in batches; scores of batches → the slice's score map."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..config import Inference, Preprocessing
from ..data.background import is_occupied, occupied_blocks
from ..data.intensity import IntensityRange
from ..data.transforms import image_to_tensor
from .forward import background_score
from .windows import Blend, Window, cut_windows, importance_map, plan_windows

Form = tuple[tuple[int, int], tuple[int, int]]
"""(H, W) of a slice and (h, w) of the tensor that the windows are cut from."""


class Request(NamedTuple):
    """A slice as its model is to see it."""

    size: tuple[int, int]
    """(H, W) of the slice."""
    extent: tuple[int, int]
    """(h, w) of the tensor that the windows were cut from."""
    windows: list[Window]
    tensors: list[torch.Tensor]
    """One per window, (C, h, w) float32 on the model's device."""


class Patch(NamedTuple):
    """One window of one slice."""

    z: int
    window: Window
    tensor: torch.Tensor


class Batch(NamedTuple):
    """Windows that go through the model together, of slices of one form."""

    form: Form
    patches: list[Patch]
    """Empty where slices of background, or the last ones, are only to be handed on."""
    size: int
    complete: int
    """Slices, from the first on, that no later batch adds to."""


def make_request(
    stack: np.ndarray,
    preprocessing: Preprocessing,
    device: torch.device,
    intensity: IntensityRange,
    inference: Inference,
    background: np.number | None,
) -> Request:
    """What a model is to see of a stack (C, H, W): all of it at once, or its windows that are not background."""
    tensor = image_to_tensor(stack, preprocessing, device, intensity)
    _, height, width = stack.shape
    _, h, w = tensor.shape
    if preprocessing.region == "whole":
        return Request((height, width), (h, w), [(slice(0, h), slice(0, w))], [tensor])
    windows = plan_windows(h, w, preprocessing.roi_size, inference.overlap)
    if background is not None:
        occupied = occupied_blocks(stack, background)
        windows = [window for window in windows if is_occupied(window, occupied)]
    return Request((height, width), (h, w), windows, cut_windows(tensor, windows))


def make_batches(
    form: Form, requests: Iterable[Request], offsets: Sequence[int], batch_size: Callable[[torch.Tensor], int]
) -> Iterator[Batch]:
    """Gathers the windows of slices of one form; only the last batch is not full, and one before background.

    Args:
        form: of all of them.
        requests: one per slice, in order.
        offsets: the slice that each of the model's outputs is for, counted from the slice that it was shown.
        batch_size: of windows like this one, (C, h, w).
    """
    pending: deque[Patch] = deque()
    size, seen, reach = 1, 0, min(offsets)
    for request in requests:
        pending += [Patch(seen, *each) for each in zip(request.windows, request.tensors, strict=True)]
        seen += 1
        size = batch_size(pending[0].tensor) if pending else size
        # A slice of background flushes the batch, so that a stretch of them keeps nothing waiting.
        while len(pending) >= size or (pending and not request.windows):
            patches = [pending.popleft() for _ in range(min(size, len(pending)))]
            yield Batch(form, patches, size, reach + (pending[0].z if pending else seen))
        if not request.windows:
            yield Batch(form, [], size, reach + seen)
    yield Batch(form, list(pending), size, seen)


def blend_batches(
    scored: Iterable[tuple[Batch, Sequence[torch.Tensor]]],
    extent: tuple[int, int],
    preprocessing: Preprocessing,
    device: torch.device,
    inference: Inference,
) -> Iterator[torch.Tensor]:
    """Blends the windows of slices of one form; a slice is handed on when no later window can add to it.

    Args:
        scored: batches, each with the scores of its windows, (outputs, h, w) float32.
        extent: (h, w) of the tensors that the windows were cut from.
        preprocessing: the model's.
        device: where the scores are.
        inference: says how windows are weighted.

    Yields:
        One map per slice, (h, w) float32.
    """
    kind = "constant" if preprocessing.region == "whole" else inference.importance
    blends: defaultdict[int, Blend] = defaultdict(lambda: Blend(*extent, device))
    done = 0
    for batch, scores in scored:
        for patch, maps in zip(batch.patches, scores, strict=True):
            importance = importance_map(*maps.shape[1:], kind, device)
            for offset, score in zip(preprocessing.output_offsets, maps, strict=True):
                blends[patch.z + offset].add(score, patch.window, importance)
        for ready in range(done, batch.complete):
            yield blends[ready].mean(background_score(inference))
            del blends[ready]
        done = max(done, batch.complete)
