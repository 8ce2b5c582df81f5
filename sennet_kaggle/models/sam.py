"""Segment Anything (Kirillov 2023) without any training: image → union of the masks it proposes."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import InputError
from .file_kinds import describe_tensors, sam_variant
from .weights import check_fit, load_weights_file, match_names

# Width, blocks, heads and globally attending blocks of the image encoders.
VARIANTS = {
    "vit_b": (768, 12, 12, (2, 5, 8, 11)),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
}
_PATCH_SIZE = 16
_PROMPT_EMBED_DIM = 256


class SamVessels(nn.Module):
    """segment_anything's automatic mask generator, made to segment vessels.

    It proposes a mask for each point of a grid and knows nothing of vessels: without an upper limit of
    area the organ itself is among the masks, and the union is everything.

    Args:
        sam: a `segment_anything.modeling.Sam`.
        points_per_side: points of the prompt grid along each side of the image.
        points_per_batch: prompts decoded at once.
        pred_iou_thresh: masks whose quality the model itself puts lower are dropped, in 0..1; 0 keeps all.
        stability_score_thresh: masks that change more than this with the logits' cutoff are dropped, in
            0..1; 0 keeps all.
        min_area: smallest mask kept, in pixels.
        max_area_fraction: largest mask kept, as a fraction of the image in 0..1; None keeps all.

    Raises:
        InputError: no point, or an area limit out of range.
    """

    variant: str
    """Name of the sizes of the encoder, as in `VARIANTS`."""

    def __init__(
        self,
        sam: nn.Module,
        points_per_side: int,
        points_per_batch: int,
        pred_iou_thresh: float,
        stability_score_thresh: float,
        min_area: int,
        max_area_fraction: float | None,
    ):
        super().__init__()
        if min(points_per_side, points_per_batch) < 1:
            raise InputError(
                f"sam: points_per_side and points_per_batch must be at least 1, "
                f"got {points_per_side} and {points_per_batch}"
            )
        if min_area < 0 or not (max_area_fraction is None or 0 < max_area_fraction <= 1):
            raise InputError(
                f"sam: min_area must be at least 0 and max_area_fraction in 0..1 (0 excluded) or None, "
                f"got {min_area} and {max_area_fraction}"
            )
        self.sam = sam
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
        records = SamAutomaticMaskGenerator(self.sam, **self._generator_arguments).generate(image)
        fraction = 1.0 if self.max_area_fraction is None else self.max_area_fraction
        largest = fraction * image.shape[0] * image.shape[1]
        return [record for record in records if self.min_area <= record["area"] <= largest]

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Maps (H, W, 3) uint8 RGB to (H, W) bool: the union of the accepted masks."""
        mask = np.zeros(image.shape[:2], dtype=np.bool_)
        for record in self.generate(image):
            mask |= record["segmentation"]
        return mask


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
) -> SamVessels:
    """Builds Segment Anything in evaluation mode; official weights want 1024 pixels and a variant's encoder.

    Args:
        variant: "vit_b", "vit_l" or "vit_h".
        weights_path: the official .pth file of the variant, its tensors as safetensors, or one of our own
            checkpoints.
        points_per_side: see `SamVessels`, as for the next five.
        image_size: side of the square that the image is scaled and padded to; a multiple of 16.
        embed_dim: width of the image encoder, a multiple of `num_heads`, instead of the variant's.
        depth: blocks, instead of the variant's.
        num_heads: attention heads, instead of the variant's.
        global_attn_indexes: blocks that attend to the whole image (others: 14 x 14 patches), each below
            `depth`, instead of the variant's.

    Raises:
        InputError: an unknown variant, an image size that is no multiple of 16, encoder sizes or
            thresholds out of range, or weights that do not fit.
    """
    if variant not in VARIANTS:
        raise InputError(f"unknown SAM variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    if image_size < _PATCH_SIZE or image_size % _PATCH_SIZE:
        raise InputError(f"image_size must be a multiple of {_PATCH_SIZE}, got {image_size}")
    overrides = (embed_dim, depth, num_heads, global_attn_indexes)
    sizes: list[Any] = [  # three numbers and a sequence of such
        size if override is None else override for size, override in zip(VARIANTS[variant], overrides, strict=True)
    ]
    _check_encoder(*sizes)
    sam = _build_sam(image_size, *sizes)
    model = SamVessels(
        sam, points_per_side, points_per_batch, pred_iou_thresh, stability_score_thresh, min_area, max_area_fraction
    )
    model.variant = variant
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
        InputError: as `load_weights_file`, or the weights are another model's or another variant's.
    """
    own = model.sam.state_dict()
    match = match_names(load_weights_file(weights_path, "sam"), own)
    check_fit(weights_path, match, own, f"do not fit SAM {model.variant}", _remedy(model, match.source), whole=True)
    model.sam.load_state_dict(match.tensors)
    return [f"sam.{name}" for name in own], []


def _remedy(model: SamVessels, tensors: Mapping[str, torch.Tensor]) -> str:
    """What to do about a file that does not fit."""
    variant = sam_variant(tensors)
    if describe_tensors(tensors).removesuffix(f" {variant}") != "Segment Anything":
        return f"give the official file of {', '.join(VARIANTS)}, which alone fit"
    if variant == model.variant:
        return "give the whole file, and the image_size and encoder that it was made with"
    return f"choose their variant{f', {variant}' if variant else ''}"


def _check_encoder(embed_dim: int, depth: int, num_heads: int, global_attn_indexes: Sequence[int]) -> None:
    if min(embed_dim, depth, num_heads) < 1 or embed_dim % num_heads:
        raise InputError(
            f"sam: embed_dim, depth and num_heads must be positive and embed_dim a multiple of num_heads, "
            f"got {embed_dim}, {depth} and {num_heads}"
        )
    if not all(0 <= index < depth for index in global_attn_indexes):
        raise InputError(f"sam: global_attn_indexes must lie in 0..{depth - 1}, got {list(global_attn_indexes)}")


def _build_sam(image_size: int, embed_dim: int, depth: int, num_heads: int, global_attn_indexes: Sequence[int]):
    """segment_anything's own recipe (its build_sam module), which fixes the image size at 1024."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = image_size // _PATCH_SIZE
    image_encoder = ImageEncoderViT(
        depth=depth,
        embed_dim=embed_dim,
        img_size=image_size,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=num_heads,
        patch_size=_PATCH_SIZE,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=tuple(global_attn_indexes),
        window_size=14,
        out_chans=_PROMPT_EMBED_DIM,
    )
    prompt_encoder = PromptEncoder(
        embed_dim=_PROMPT_EMBED_DIM,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=_PROMPT_EMBED_DIM, mlp_dim=2048, num_heads=8),
        transformer_dim=_PROMPT_EMBED_DIM,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return Sam(image_encoder, prompt_encoder, mask_decoder)
