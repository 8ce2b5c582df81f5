"""Slices → scores: every model behind one seam, over whole slices or over windows of them, in batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ..config import Inference, Preprocessing
from ..data.intensity import IntensityRange, grey_levels, hide_padding, slice_to_image
from ..data.neighbours import stack_neighbours
from ..data.resizing import resize_map
from .batching import choose_batch_size, compute_in_threads, make_batch
from .forward import forward, to_probability
from .patches import Batch, Request, blend_batches, make_batches, make_request


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
            background = cast(np.number, grey_levels(np.asarray(background), self.preprocessing)[()])
        return (
            make_request(stack, self.preprocessing, self.device, intensity, inference, background)
            for stack in stack_neighbours(grey, self.preprocessing)
        )

    def run(self, requests: Iterable[Request | np.ndarray], inference: Inference) -> Iterator[torch.Tensor]:
        """The second half of `score`: runs the model on what `prepare` yields. A GPU's work is not waited for."""
        if hasattr(self.model, "segment"):
            segment: Any = self.model.segment  # which to a type checker may be a tensor
            masks = (torch.from_numpy(segment(image)) for image in requests)
            yield from (mask.to(self.device).float() for mask in masks)
            return
        # The batches of all forms are one stream, so that no thread waits where another form begins.
        runs = groupby(cast(Iterable[Request], requests), key=attrgetter("size", "extent"))
        offsets, batch_size = self.preprocessing.output_offsets, partial(self.batch_size, inference=inference)
        batches = chain.from_iterable(make_batches(form, run, offsets, batch_size) for form, run in runs)
        scored = compute_in_threads(partial(self._score_batch, inference=inference), batches, self.threads)
        for (size, extent), run in groupby(scored, key=lambda pair: pair[0].form):
            for score in blend_batches(run, extent, self.preprocessing, self.device, inference):
                yield resize_map(score, *size)

    def batch_size(self, tensor: torch.Tensor, inference: Inference) -> int:
        """The one of the settings, or one that fits inputs (C, h, w) such as this."""
        whole = self.preprocessing.region == "whole"
        wanted = inference.batch_size if whole else inference.sw_batch_size
        if wanted is not None:
            return wanted
        if tensor.shape not in self.batch_sizes:
            run = partial(forward, self.model, tensor[None], self.preprocessing, self.dtype, inference)
            self.batch_sizes[tensor.shape] = choose_batch_size(run, self.device)
        return self.batch_sizes[tensor.shape]

    def _score_batch(self, batch: Batch, inference: Inference) -> tuple[Batch, Sequence[torch.Tensor]]:
        """A batch with the scores of its windows, (outputs, h, w) float32 each."""
        if not batch.patches:
            return batch, []
        inputs = make_batch([patch.tensor for patch in batch.patches], batch.size)
        scores = forward(self.model, inputs, self.preprocessing, self.dtype, inference)
        return batch, list(scores[: len(batch.patches)])


def _to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 → (H, W, 3) uint8, R=G=B, clipped to 0..1."""
    grey = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
