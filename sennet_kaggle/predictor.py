"""Slices → scores: every model behind one seam, over whole slices or over windows of them, in batches."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .background import is_occupied, occupied_blocks
from .config import Inference, Preprocessing
from .errors import InputError
from .transforms import (
    IntensityRange,
    image_to_tensor,
    read_stack,
    resize_probability,
    slice_to_image,
    stack_neighbours,
)
from .windows import Blend, Window, cut_windows, importance_map, plan_windows

# Quarter turns, and whether a left-right flip goes before them.
VIEWS = {
    "none": [(0, False)],
    "flips": [(0, False), (2, False), (0, True), (2, True)],
    "d4": [(turns, flip) for flip in (False, True) for turns in range(4)],
}
_MAX_LOGIT = 30.0


class Job(NamedTuple):
    """What the model is to see of one slice."""

    z: int
    window: Window
    tensor: torch.Tensor
    """(C, h, w) float32."""


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
        return [to_probability(score, inference) for score in self.score(slices, intensity, inference)]

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
        stack = read_stack(slices, z, intensity, self.preprocessing)
        return to_probability(next(self._score_run([stack], stack.shape[1:], inference, None)), inference)

    def score(
        self,
        slices: Iterable[np.ndarray],
        intensity: IntensityRange,
        inference: Inference,
        background: np.number | None = None,
    ) -> Iterator[np.ndarray]:
        """Scores a stream of slices, each read once and in order; what is held does not grow with the stream.

        Args:
            slices: D grey slices, each (H, W) uint8 or uint16.
            intensity: what `measure_intensity` found for their volume.
            inference: how the model is run.
            background: what `measure_background` found for their volume; windows of background are then not
                shown to the model. None shows it all.

        Yields:
            D score maps, each (H, W) float32.
        """
        images = (slice_to_image(slice_, intensity, self.preprocessing) for slice_ in slices)
        if hasattr(self.model, "segment"):
            yield from (self.model.segment(_to_rgb(image)).astype(np.float32) for image in images)
            return
        if background is not None:
            background = slice_to_image(np.full((1, 1), background), intensity, self.preprocessing).item()
        for shape, run in groupby(stack_neighbours(images, self.preprocessing), key=np.shape):
            yield from self._score_run(run, shape[1:], inference, background)

    def _score_run(
        self, stacks: Iterable[np.ndarray], size: tuple[int, int], inference: Inference, background: float | None
    ) -> Iterator[np.ndarray]:
        """Scores stacks (C, H, W) of one size; a slice is handed on when no later window can add to it."""
        whole = self.preprocessing.region == "whole"
        batch_size = inference.batch_size if whole else inference.sw_batch_size
        blends = defaultdict(lambda: Blend(*size, "cpu" if whole else self.device))
        pending: deque[Job] = deque()
        done = 0
        for z, stack in enumerate(chain(stacks, (None,))):  # None: the end, where all that is left is handed on
            jobs = [] if stack is None else self._cut(z, stack, inference, background)
            pending += jobs
            # A slice of background flushes the batch, so that a stretch of them keeps nothing waiting.
            while len(pending) >= batch_size or (pending and not jobs):
                self._answer([pending.popleft() for _ in range(min(batch_size, len(pending)))], blends, inference)
            earliest = pending[0].z if pending else z + 1
            complete = z if stack is None else earliest + min(self.preprocessing.output_offsets)
            for ready in range(done, complete):
                blend = blends.pop(ready, None)
                yield np.full(size, _nothing(inference)) if blend is None else blend.mean(_nothing(inference))
            done = max(done, complete)

    def _cut(self, z: int, stack: np.ndarray, inference: Inference, background: float | None) -> list[Job]:
        """What the model is to see of a stack (C, H, W): all of it at once, or its windows that are not background."""
        height, width = stack.shape[1:]
        tensor = image_to_tensor(stack, self.preprocessing)
        if self.preprocessing.region == "whole":
            return [Job(z, (slice(0, height), slice(0, width)), tensor)]
        windows = plan_windows(height, width, self.preprocessing.roi_size, inference.overlap)
        if background is not None:
            occupied = occupied_blocks(stack, background)
            windows = [window for window in windows if is_occupied(window, occupied)]
        return [Job(z, *cut) for cut in zip(windows, cut_windows(tensor.to(self.device), windows), strict=True)]

    def _answer(self, jobs: Sequence[Job], blends: Mapping[int, Blend], inference: Inference) -> None:
        """Runs the model on a batch and adds its scores to the slices they are for."""
        scores = self._forward(torch.stack([job.tensor for job in jobs]).to(self.device), inference)
        for job, maps in zip(jobs, scores, strict=True):
            for offset, score in zip(self.preprocessing.output_offsets, maps, strict=True):
                kind = inference.importance
                if self.preprocessing.region == "whole":
                    height, width = (axis.stop for axis in job.window)
                    score = torch.from_numpy(resize_probability(score.cpu().numpy(), height, width))
                    kind = "constant"
                importance = importance_map(*score.shape, kind).to(score.device)
                blends[job.z + offset].add(score, job.window, importance)

    def _forward(self, tensor: torch.Tensor, inference: Inference) -> torch.Tensor:
        """Runs the model on all views of a batch: (N, C, h, w) → scores (N, outputs, h, w) float32."""
        views = VIEWS[inference.tta]
        return sum(self._forward_view(tensor, *view, inference) for view in views) / len(views)

    def _forward_view(self, tensor: torch.Tensor, turns: int, flip: bool, inference: Inference) -> torch.Tensor:
        view = torch.rot90(tensor.flip(-1) if flip else tensor, turns, (-2, -1))
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
            logits = self.model(view)
        logits = self._outputs(torch.rot90(logits, -turns, (-2, -1)).float())
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


def to_probability(score: np.ndarray, inference: Inference) -> np.ndarray:
    """Turns a mean score (H, W) float32 into a probability (H, W) float32 in 0..1."""
    return score if inference.average == "probability" else 1 / (1 + np.exp(-score))


def _nothing(inference: Inference) -> np.float32:
    """The score of what is surely no vessel."""
    return np.float32(0 if inference.average == "probability" else -_MAX_LOGIT)


def _to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 → (H, W, 3) uint8, R=G=B, clipped to 0..1."""
    grey = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
