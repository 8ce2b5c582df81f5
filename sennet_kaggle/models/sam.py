"""Segment Anything (Kirillov 2023) without any training: image → union of the masks it proposes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import InputError
from .sam_network import create_network, load_network
from .tiny_vit_sam import Layer

_MOST_POINTS = 256  # along a side, 65,536 prompts in all


class SamVessels(nn.Module):
    """segment_anything's automatic mask generator, made to segment vessels.

    It proposes a mask for each point of a grid and knows nothing of vessels: without an upper limit of
    area the organ itself is among the masks, and the union is everything.

    Args:
        sam: a `segment_anything.modeling.Sam`.
        points_per_side: points of the prompt grid along each side of the image.
        points_per_batch: prompts decoded at once.
        pred_iou_thresh: masks whose quality the model itself puts lower are dropped, at most 1; that quality is about
            0..1, so that a number below keeps all.
        stability_score_thresh: masks that change more than this with the logits' cutoff are dropped, in
            0..1; 0 or less keeps all.
        min_area: smallest mask kept, in pixels; one without any is always dropped.
        max_area_fraction: largest mask kept, as a fraction of the image in 0..1; None keeps all.

    Raises:
        InputError: no point or too many, or a threshold or an area limit out of range.
    """

    variant: str
    """Name of the sizes of the encoder, as in `VARIANTS`."""

    def __init__(
        self,
        sam: Layer,
        points_per_side: int,
        points_per_batch: int,
        pred_iou_thresh: float,
        stability_score_thresh: float,
        min_area: int,
        max_area_fraction: float | None,
    ):
        super().__init__()
        if not (1 <= points_per_side <= _MOST_POINTS and 1 <= points_per_batch <= _MOST_POINTS**2):
            raise InputError(
                f"sam: points_per_side must lie in 1..{_MOST_POINTS} and points_per_batch in 1..{_MOST_POINTS**2}, "
                f"got {points_per_side} and {points_per_batch}"
            )
        thresholds = {"pred_iou_thresh": pred_iou_thresh, "stability_score_thresh": stability_score_thresh}
        for name, value in thresholds.items():
            if not value <= 1:
                raise InputError(f"sam: {name} must be at most 1, got {value}")
        if min_area < 0 or not (max_area_fraction is None or 0 < max_area_fraction <= 1):
            raise InputError(
                f"sam: min_area must be at least 0 and max_area_fraction in 0..1 (0 excluded) or None, "
                f"got {min_area} and {max_area_fraction}"
            )
        self.sam = sam
        self.dtype = torch.float32
        """Arithmetic of the encoder and the decoder; other than float32 by autocast."""
        self.min_area, self.max_area_fraction = min_area, max_area_fraction
        self._generator_arguments = {
            "points_per_side": points_per_side,
            "points_per_batch": points_per_batch,
            "pred_iou_thresh": pred_iou_thresh,
            "stability_score_thresh": stability_score_thresh,
        }

    @torch.inference_mode()
    def generate(self, image: np.ndarray) -> list[dict]:
        """Proposes masks.

        Args:
            image: (H, W, 3) uint8, RGB.

        Returns:
            segment_anything's records of the accepted masks: "segmentation" (H, W) bool, "area" in
            pixels, "predicted_iou", "stability_score", "bbox" XYWH, "point_coords" [[x, y]], "crop_box" XYWH.

        Raises:
            InputError: an image of another shape or dtype.
        """
        from segment_anything import SamAutomaticMaskGenerator

        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(f"sam: image must be (H, W, 3) uint8, got {image.shape} {image.dtype}: convert it to RGB")
        # Made anew for each image, so that it follows the module to another device.
        with self.arithmetic():
            records = SamAutomaticMaskGenerator(self.sam, **self._generator_arguments).generate(image)
        fraction = 1.0 if self.max_area_fraction is None else self.max_area_fraction
        largest = fraction * image.shape[0] * image.shape[1]
        least = max(self.min_area, 1)  # a mask of low stability may lose its last pixel
        return [record for record in records if least <= record["area"] <= largest]

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Lets encoder and decoder compute in `dtype`; what they answer is float32, as numpy has no bfloat16."""
        if self.dtype == torch.float32:
            yield
            return
        parts = (self.sam.image_encoder, self.sam.mask_decoder)
        hooks = [part.register_forward_hook(_to_float32) for part in parts]
        try:
            with torch.autocast(self.sam.device.type, self.dtype):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Maps (H, W, 3) uint8 RGB to (H, W) bool: the union of the accepted masks."""
        mask = np.zeros(image.shape[:2], dtype=np.bool_)
        for record in self.generate(image):
            mask |= record["segmentation"]
        return mask


def _to_float32(module: nn.Module, inputs: object, outputs: Any) -> Any:
    return tuple(map(torch.Tensor.float, outputs)) if isinstance(outputs, tuple) else outputs.float()


def create_sam(
    variant: str = "vit_b",
    weights_path: Path | str | None = None,
    points_per_side: int = 32,
    points_per_batch: int = 64,
    pred_iou_thresh: float = 0.88,
    stability_score_thresh: float = 0.95,
    min_area: int = 0,
    max_area_fraction: float | None = 0.05,
    image_size: int = 1024,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    global_attn_indexes: Sequence[int] | None = None,
    patch_stride: int | None = None,
) -> SamVessels:
    """Builds Segment Anything in evaluation mode; official weights want 1024 pixels and a variant's encoder.

    Args:
        variant: "vit_b", "vit_l", "vit_h", or "vit_t" for MobileSAM and LiteMedSAM.
        weights_path: the official file of the variant, its tensors as safetensors, or one of our own checkpoints.
        points_per_side: see `SamVessels`, as for the next five.
        image_size: side of the square that the image is scaled and padded to; 256 for LiteMedSAM, see
            `create_network`.
        embed_dim: see `create_network`, as for the next four.

    Raises:
        InputError: as `SamVessels` and `create_network`, or weights that do not fit.
    """
    sam = create_network(variant, image_size, embed_dim, depth, num_heads, global_attn_indexes, patch_stride)
    model = SamVessels(
        sam, points_per_side, points_per_batch, pred_iou_thresh, stability_score_thresh, min_area, max_area_fraction
    )
    if weights_path is not None:
        load_pretrained(model, weights_path)
    return model.eval()


def load_pretrained(model: SamVessels, weights_path: Path | str) -> tuple[list[str], list[str]]:
    """Loads Segment Anything's official weights or one of our own checkpoints, whole.

    Args:
        model: changed in place.
        weights_path: see `load_weights_file`.

    Returns:
        Names of the model's tensors that were loaded, and an empty list: none is left fresh.

    Raises:
        InputError: as `load_network`.
    """
    return [f"sam.{name}" for name in load_network(model.sam, weights_path, "sam")], []
