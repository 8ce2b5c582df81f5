"""Slices → scores: every model behind one seam, over whole slices or over windows of them, in batches."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..config import Inference, Preprocessing
from ..data.background import is_occupied, occupied_blocks
from ..data.intensity import IntensityRange, grey_levels, hide_padding, slice_to_image
from ..data.neighbours import read_stack, stack_neighbours
from ..data.resizing import resize_map
from ..data.transforms import image_to_tensor
from ..errors import InputError
from .batching import choose_batch_size, compute_in_threads, make_batch
from .windows import Blend, Window, cut_windows, importance_map, plan_windows

# Quarter turns, and whether a left-right flip goes before them.
VIEWS = {
    "none": [(0, False)],
    "flips": [(0, False), (2, False), (0, True), (2, True)],
    "d4": [(turns, flip) for flip in (False, True) for turns in range(4)],
}
_MAX_LOGIT = 30.0

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


@dataclass(frozen=True)
class Predictor:
    """A model ready to turn slices into scores: the seam behind which all models stand.

    A score is a probability, or a logit where the settings average those. A model either maps a batch of
    tensors to logits, or has a method `segment` that maps an 8-bit RGB image to a mask (Segment Anything);
    the caller does not see which.
    """

    model: nn.Module
    preprocessing: Preprocessing
    threshold: float
    """Probability above which a pixel is vessel."""
    device: torch.device
    dtype: torch.dtype = torch.float32
    """Arithmetic of the forward pass; other than float32 by autocast."""
    threads: int = 1
    """Batches that go through the model at once, each in a thread of its own with its share of the cores."""
    batch_sizes: dict[torch.Size, int] = field(default_factory=dict, repr=False, compare=False)
    """Those chosen so far, by the shape of the input."""

    def __call__(
        self,
        slices: Iterable[np.ndarray],
        intensity: IntensityRange,
        inference: Inference = Inference(),  # noqa: B008
    ) -> list[np.ndarray]:
        """Predicts a few slices.

        Args:
            slices: N consecutive grey slices of one volume, each (H, W) uint8 or uint16.
            intensity: what `measure_intensity` found for their volume.
            inference: how the model is run.

        Returns:
            N probability maps, each (H, W) float32 in 0..1.
        """
        return [
            to_probability(score, inference).numpy(force=True) for score in self.score(slices, intensity, inference)
        ]

    def predict_slice(
        self,
        slices: Sequence[np.ndarray],
        z: int,
        intensity: IntensityRange,
        inference: Inference = Inference(),  # noqa: B008
    ) -> np.ndarray:
        """Predicts slice z of a volume, reading the neighbours that the model sees with it and no others.

        Returns:
            (H, W) float32 in 0..1; with outputs "all" without what the model says when it looks at a neighbour.
        """
        if hasattr(self.model, "segment"):
            return self([slices[z]], intensity, inference)[0]
        stack = read_stack(slices, z, self.preprocessing)
        alone = replace(inference, batch_size=1)
        request = self._request(stack, intensity, alone, None)
        if len(request.windows) == 1:
            alone = replace(alone, sw_batch_size=1)  # not a batch of copies
        predictor = self if len(request.windows) > 1 else replace(self, threads=1)  # all cores for the one window
        (score,) = predictor.run([request], alone)
        return to_probability(score, inference).numpy(force=True)

    def score(
        self,
        slices: Iterable[np.ndarray],
        intensity: IntensityRange,
        inference: Inference,
        background: np.number | None = None,
    ) -> Iterator[torch.Tensor]:
        """Scores a stream of slices, each read once and in order; what is held does not grow with the stream.

        Args:
            slices: D grey slices, each (H, W) uint8 or uint16.
            intensity: what `measure_intensity` found for their volume.
            inference: how the model is run.
            background: what `measure_background` found for their volume; windows of background are then not
                shown to the model. None shows it all.

        Yields:
            D score maps, each (H, W) float32 on the model's device.
        """
        return self.run(self.prepare(slices, intensity, inference, background), inference)

    def prepare(
        self,
        slices: Iterable[np.ndarray],
        intensity: IntensityRange,
        inference: Inference,
        background: np.number | None = None,
    ) -> Iterator[Request | np.ndarray]:
        """The first half of `score`, which can run in another thread: what the model is to see of each slice."""
        grey = (hide_padding(slice_, self.preprocessing) for slice_ in slices)
        if hasattr(self.model, "segment"):
            return (_to_rgb(slice_to_image(slice_, intensity, self.preprocessing)) for slice_ in grey)
        if background is not None:
            background = grey_levels(background, self.preprocessing)
        return (
            self._request(stack, intensity, inference, background)
            for stack in stack_neighbours(grey, self.preprocessing)
        )

    def run(self, requests: Iterable[Request | np.ndarray], inference: Inference) -> Iterator[torch.Tensor]:
        """The second half of `score`: runs the model on what `prepare` yields. A GPU's work is not waited for."""
        if hasattr(self.model, "segment"):
            masks = (torch.from_numpy(self.model.segment(image)) for image in requests)
            yield from (mask.to(self.device).float() for mask in masks)
            return
        # The batches of all forms are one stream, so that no thread waits where another form begins.
        runs = groupby(requests, key=attrgetter("size", "extent"))
        batches = chain.from_iterable(self._batches(form, run, inference) for form, run in runs)
        answers = compute_in_threads(partial(self._score_batch, inference=inference), batches, self.threads)
        for (size, extent), run in groupby(answers, key=lambda run: run[0].form):
            for score in self._blend(run, extent, inference):
                yield resize_map(score, *size)

    def _request(
        self, stack: np.ndarray, intensity: IntensityRange, inference: Inference, background: np.number | None
    ) -> Request:
        """What the model is to see of a stack (C, H, W): all of it at once, or its windows that are not background."""
        tensor = image_to_tensor(stack, self.preprocessing, self.device, intensity)
        size, extent = stack.shape[1:], tuple(tensor.shape[1:])
        if self.preprocessing.region == "whole":
            return Request(size, extent, [(slice(0, extent[0]), slice(0, extent[1]))], [tensor])
        windows = plan_windows(*extent, self.preprocessing.roi_size, inference.overlap)
        if background is not None:
            occupied = occupied_blocks(stack, background)
            windows = [window for window in windows if is_occupied(window, occupied)]
        return Request(size, extent, windows, cut_windows(tensor, windows))

    def _blend(
        self, answers: Iterable[tuple[Batch, Sequence[torch.Tensor]]], extent: tuple[int, int], inference: Inference
    ) -> Iterator[torch.Tensor]:
        """The scores of slices of one form; a slice is handed on when no later window can add to it."""
        kind = "constant" if self.preprocessing.region == "whole" else inference.importance
        blends = defaultdict(lambda: Blend(*extent, self.device))
        done = 0
        for batch, scores in answers:
            for patch, maps in zip(batch.patches, scores, strict=True):
                importance = importance_map(*maps.shape[1:], kind, self.device)
                for offset, score in zip(self.preprocessing.output_offsets, maps, strict=True):
                    blends[patch.z + offset].add(score, patch.window, importance)
            for ready in range(done, batch.complete):
                yield (blends.pop(ready, None) or Blend(*extent, self.device)).mean(_nothing(inference))
            done = max(done, batch.complete)

    def _batches(self, form: Form, requests: Iterable[Request], inference: Inference) -> Iterator[Batch]:
        """The windows of one form, slice by slice; only the last batch is not full, and one before background."""
        pending: deque[Patch] = deque()
        size, seen, reach = 1, 0, min(self.preprocessing.output_offsets)
        for request in requests:
            pending += [Patch(seen, *each) for each in zip(request.windows, request.tensors, strict=True)]
            seen += 1
            size = self.batch_size(pending[0].tensor, inference) if pending else size
            # A slice of background flushes the batch, so that a stretch of them keeps nothing waiting.
            while len(pending) >= size or (pending and not request.windows):
                patches = [pending.popleft() for _ in range(min(size, len(pending)))]
                yield Batch(form, patches, size, reach + (pending[0].z if pending else seen))
            if not request.windows:
                yield Batch(form, [], size, reach + seen)
        yield Batch(form, list(pending), size, seen)

    def _score_batch(self, batch: Batch, inference: Inference) -> tuple[Batch, Sequence[torch.Tensor]]:
        """A batch with the scores of its windows, (outputs, h, w) float32 each."""
        if not batch.patches:
            return batch, []
        scores = self._forward(make_batch([patch.tensor for patch in batch.patches], batch.size), inference)
        return batch, scores[: len(batch.patches)]

    def batch_size(self, tensor: torch.Tensor, inference: Inference) -> int:
        """The one of the settings, or one that fits inputs (C, h, w) such as this."""
        whole = self.preprocessing.region == "whole"
        wanted = inference.batch_size if whole else inference.sw_batch_size
        if wanted is not None:
            return wanted
        if tensor.shape not in self.batch_sizes:
            run = partial(self._forward, tensor[None], inference)
            self.batch_sizes[tensor.shape] = choose_batch_size(run, self.device)
        return self.batch_sizes[tensor.shape]

    def _forward(self, tensor: torch.Tensor, inference: Inference) -> torch.Tensor:
        """Runs the model on all views of a batch: (N, C, h, w) → scores (N, outputs, h, w) float32."""
        views = VIEWS[inference.tta]
        scores = (self._forward_view(tensor, *view, inference) for view in views)
        total = sum(scores, next(scores))  # begins with the first one, which may be the only one
        return total / len(views) if len(views) > 1 else total

    def _forward_view(self, tensor: torch.Tensor, turns: int, flip: bool, inference: Inference) -> torch.Tensor:
        view = _turn(tensor.flip(-1) if flip else tensor, turns)
        view = view.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
            logits = self.model(view)
        logits = self._outputs(_turn(logits, -turns).float())
        logits = logits.flip(-1) if flip else logits
        return logits.sigmoid() if inference.average == "probability" else logits.clamp(-_MAX_LOGIT, _MAX_LOGIT)

    def _outputs(self, logits: torch.Tensor) -> torch.Tensor:
        """The channels of the logits that count."""
        if self.preprocessing.outputs == "centre":
            return logits[:, :1]
        if logits.shape[1] != self.preprocessing.in_channels:
            raise InputError(
                f"outputs 'all' needs a model with {self.preprocessing.in_channels} outputs, one per input channel, "
                f"got {logits.shape[1]}: make it with out_channels, or choose outputs 'centre'"
            )
        return logits


def to_probability(score: torch.Tensor, inference: Inference) -> torch.Tensor:
    """Turns a mean score (H, W) float32 into a probability (H, W) float32 in 0..1."""
    return score if inference.average == "probability" else score.sigmoid()


def _turn(tensor: torch.Tensor, turns: int) -> torch.Tensor:
    """Quarter turns of (N, C, h, w); none is no copy."""
    return torch.rot90(tensor, turns, (-2, -1)) if turns else tensor


def _nothing(inference: Inference) -> float:
    """The score of what is surely no vessel."""
    return 0.0 if inference.average == "probability" else -_MAX_LOGIT


def _to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 → (H, W, 3) uint8, R=G=B, clipped to 0..1."""
    grey = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
