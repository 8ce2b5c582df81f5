"""Slices → probability → mask: every model behind one seam, in batches, on CPU or GPU."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from .checkpoint import load_checkpoint
from .config import Inference, Preprocessing
from .errors import InputError
from .probability import save_probability
from .rle import rle_encode
from .transforms import IntensityRange, image_to_tensor, measure_intensity, resize_probability, slice_to_image
from .volume import Volume


@dataclass(frozen=True)
class Predictor:
    """A model ready to turn slices into probabilities: the seam behind which all models stand.

    A model either maps a batch of tensors to logits, or has a method `segment` that maps an 8-bit RGB
    image to a mask (Segment Anything); the caller does not see which.
    """

    model: nn.Module
    preprocessing: Preprocessing
    threshold: float
    """Probability above which a pixel is vessel."""
    device: torch.device
    dtype: torch.dtype = torch.float32
    """Arithmetic of the forward pass; other than float32 by autocast."""

    def __call__(self, slices: Sequence[np.ndarray], intensity: IntensityRange) -> list[np.ndarray]:
        """Predicts a batch.

        Args:
            slices: N grey slices, each (H, W) uint8 or uint16; their sizes may differ.
            intensity: what `measure_intensity` found for their volume.

        Returns:
            N probability maps, each (H, W) float32 in 0..1.
        """
        images = [slice_to_image(slice_, intensity, self.preprocessing) for slice_ in slices]
        if hasattr(self.model, "segment"):
            return [self.model.segment(_to_rgb(image)).astype(np.float32) for image in images]
        tensor = torch.stack([image_to_tensor(image, self.preprocessing) for image in images])
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
            logits = self.model(tensor.to(self.device))
        probability = logits.float().sigmoid()[:, 0].cpu().numpy()  # (N, roi_size, roi_size)
        return [resize_probability(map_, *image.shape) for map_, image in zip(probability, images, strict=True)]


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
        InputError: a device that is not there, or a threshold outside 0..1.
    """
    threshold = threshold if inference.threshold is None else inference.threshold
    if not 0 <= threshold < 1:
        raise InputError(f"threshold must lie in 0..1 (1 excluded), got {threshold}")
    device = pick_device(inference.device)
    precision = inference.precision
    if precision == "auto":
        precision = "float16" if device.type == "cuda" else "float32"
    return Predictor(model.eval().to(device), preprocessing, threshold, device, getattr(torch, precision))


def load_predictors(checkpoint_paths: Sequence[Path | str], inference: Inference) -> list[Predictor]:
    """Loads checkpoints as the members of one ensemble.

    Raises:
        InputError: there is none, or one cannot be loaded (see `load_checkpoint`).
    """
    if not checkpoint_paths:
        raise InputError("no checkpoint given: expected at least one .safetensors file")
    loaded = [load_checkpoint(path) for path in checkpoint_paths]
    return [create_predictor(model, card.preprocessing, card.threshold, inference) for model, card in loaded]


def predict_probabilities(
    volume: Volume, predictors: Sequence[Predictor], batch_size: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Predicts a kidney.

    Args:
        volume: D slices.
        predictors: their probabilities are averaged.
        batch_size: slices per forward pass.

    Yields:
        (slice id, probability) in the volume's order; the probability is (H, W) float32 in 0..1, of the
        slice's own size.
    """
    if batch_size < 1:
        raise InputError(f"batch size must be at least 1, got {batch_size}")
    intensities = [measure_intensity(volume, predictor.preprocessing) for predictor in predictors]
    slice_ids = volume.slice_ids
    for first in range(0, len(volume), batch_size):
        zs = range(first, min(first + batch_size, len(volume)))
        slices = [volume[z] for z in zs]
        members = [predictor(slices, range_) for predictor, range_ in zip(predictors, intensities, strict=True)]
        for z, probabilities in zip(zs, zip(*members, strict=True), strict=True):
            yield slice_ids[z], np.mean(probabilities, axis=0)


def predict_masks(
    volume: Volume, predictors: Sequence[Predictor], batch_size: int, probability_dir: Path | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """As `predict_probabilities`, cut at the mean of the members' thresholds: (slice id, (H, W) bool).

    Args:
        probability_dir: also keep the kidney's probability there (see `probability.save_probability`).
    """
    threshold = mean_threshold(predictors)
    probabilities = predict_probabilities(volume, predictors, batch_size)
    if probability_dir is not None:
        probabilities = save_probability(probability_dir, volume, probabilities)
    for slice_id, probability in probabilities:
        yield slice_id, probability > threshold


def predict_rows(
    volumes: Sequence[Volume],
    predictors: Sequence[Predictor],
    batch_size: int,
    probability_dir: Path | None = None,
) -> Iterator[tuple[str, str]]:
    """Segments kidneys behind a progress bar; arguments as those of `predict_masks`.

    Yields:
        The rows of the submission, (slice id, RLE).
    """
    with tqdm(total=sum(map(len, volumes)), unit="slice", desc="segmenting", mininterval=1.0) as progress:
        for volume in volumes:
            progress.set_postfix_str(volume.name)
            for slice_id, mask in predict_masks(volume, predictors, batch_size, probability_dir):
                yield slice_id, rle_encode(mask)
                progress.update()


def mean_threshold(predictors: Sequence[Predictor]) -> float:
    """The threshold of an ensemble."""
    return sum(predictor.threshold for predictor in predictors) / len(predictors)


def pick_device(device: str) -> torch.device:
    """Turns a device setting into a device.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        InputError: an unknown device, or a GPU where there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}") from error
    gpus = torch.cuda.device_count()
    if picked.type != "cpu" and (picked.type != "cuda" or (picked.index or 0) >= gpus):
        raise InputError(f"device {device!r} is not on this machine, which has a CPU and {gpus} GPU(s)")
    return picked


def _to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 → (H, W, 3) uint8, R=G=B, clipped to 0..1."""
    grey = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
