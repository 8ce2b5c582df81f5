"""Segment Anything as a segmenter of vessels: image → logits, with a learned prompt in place of points and boxes."""

import logging
import math
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from .embedding_cache import EmbeddingCache
from .sam_network import EMBED_DIM, create_network
from .tiny_vit_sam import Layer, freeze_batch_norms, to_timm
from .weights import check_fit, describe_loaded, load_weights_file, match_names

logger = logging.getLogger(__name__)

ENCODERS = ("frozen", "adapted")
UPSCALES = (1, 2, 4)
_GRID = 64  # cells along a side of the square that official weights know
_CELL_IN_MASK = 4  # pixels of the decoder's masks along a side of a cell
_MASK_CHANNELS = 32
# What official weights do not have.
_OURS = ("prompt.", "detail.")


class SamSegmenter(nn.Module):
    """Segment Anything's image encoder and mask decoder with a prompt that is learned, the same for every image.

    The image is enlarged, since a vessel can be smaller than one of the encoder's cells. Where the decoder's masks are
    still smaller than the image, the four that it has for one prompt become the four pixels of each square.
    `create_sam_segmenter` explains the arguments.
    """

    image_encoder: Layer
    prompt_encoder: Layer
    mask_decoder: Layer

    def __init__(self, sam: Layer, encoder: str, upscale: int, prompts: int, detail_width: int, tile: int, cached: int):
        super().__init__()
        self.image_encoder, self.prompt_encoder, self.mask_decoder = (
            sam.image_encoder,
            sam.prompt_encoder,
            sam.mask_decoder,
        )
        # Points, boxes and masks are not asked for, nor the quality that Segment Anything expects of its masks.
        del self.prompt_encoder.point_embeddings, self.prompt_encoder.not_a_point_embed
        del self.prompt_encoder.mask_downscaling, self.mask_decoder.iou_prediction_head
        self.prompt = nn.Embedding(prompts, EMBED_DIM)
        self.frozen, self.upscale, self.tile = encoder == "frozen", upscale, tile
        self.cell: int = self.image_encoder.stride // upscale
        """Pixels of the image along a side of one of the encoder's cells."""
        self.mask_pixel = self.cell // _CELL_IN_MASK
        """Pixels of the image along a side of a mask's."""
        self.masks = 4 if self.mask_pixel > 1 else 1
        self.detail = Detail(3 * self.mask_pixel**2, detail_width) if detail_width else None
        self.embeddings = EmbeddingCache(cached)
        self.image_encoder.requires_grad_(not self.frozen)
        self.mask_decoder.output_hypernetworks_mlps[self.masks :].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "SamSegmenter":
        """As of any module, but BatchNorm, and a frozen encoder, stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.image_encoder.eval()
        freeze_batch_norms(self.image_encoder)
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps an image to logits.

        Args:
            image: (N, 1 or 3, h, w) float, normalised as Segment Anything's; any h and w.

        Returns:
            (N, 1, h, w) float.
        """
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % self.cell, 0, -height % self.cell), mode="replicate")
        image = image.expand(-1, 3, -1, -1)
        masks = self._decode_in_tiles(self.embed(image), image)
        if self.masks > 1:
            masks = F.pixel_shuffle(masks, 2)
        if masks.shape[-2:] != image.shape[-2:]:
            masks = F.interpolate(masks, image.shape[-2:], mode="bilinear")
        return masks[..., :height, :width]

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Maps (N, 3, h, w), multiples of the cell, to (N, 256, h / cell, w / cell)."""
        if not self.frozen:
            return self.image_encoder(self._enlarge(image))
        with torch.no_grad():
            if self.training and self.embeddings.capacity and not image.is_meta:
                return self.embeddings.look_up(image, lambda images: self.image_encoder(self._enlarge(images)))
            return self.image_encoder(self._enlarge(image))

    def _decode_in_tiles(self, embedding: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """As `decode`, in tiles as large as it has learned from, averaged where they overlap."""
        rows, columns = (_tiles(length, self.tile) for length in embedding.shape[-2:])
        if len(rows) == len(columns) == 1:
            return self.decode(embedding, image)
        batch, (height, width) = len(embedding), embedding.shape[-2:]
        size = (height * _CELL_IN_MASK, width * _CELL_IN_MASK)
        total, weight = embedding.new_zeros(batch, self.masks, *size), embedding.new_zeros(size)
        for row, column in product(rows, columns):
            y, x = (slice(axis.start * self.cell, axis.stop * self.cell) for axis in (row, column))
            masks = self.decode(embedding[..., row, column], image[..., y, x])
            importance = _importance(*masks.shape[-2:]).to(masks)
            y, x = (slice(axis.start * _CELL_IN_MASK, axis.stop * _CELL_IN_MASK) for axis in (row, column))
            total[..., y, x] += masks * importance
            weight[..., y, x] += importance
        return total / weight

    def decode(self, embedding: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Maps (N, 256, i, j), and the image (N, 3, h, w) for its detail, to masks (N, 1 or 4, 4 i, 4 j) of logits.

        It is segment_anything's `MaskDecoder.predict_masks`, for a batch of images with one prompt each.
        """
        decoder, batch, (rows, columns) = self.mask_decoder, len(embedding), embedding.shape[-2:]
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, self.prompt.weight])
        positions = self._positions(rows, columns).expand(batch, -1, -1, -1)
        source = embedding + self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        tokens, source = decoder.transformer(source, positions, tokens.expand(batch, -1, -1))
        source = source.transpose(1, 2).reshape(batch, EMBED_DIM, rows, columns)
        features = decoder.output_upscaling(source)  # (N, 32, 4 rows, 4 columns)
        if self.detail is not None:
            features = self.detail(features, F.pixel_unshuffle(image, self.mask_pixel))
        networks = decoder.output_hypernetworks_mlps[: self.masks]
        weights = torch.stack([network(tokens[:, 1 + index]) for index, network in enumerate(networks)], dim=1)
        return torch.einsum("nmc,nchw->nmhw", weights, features)

    def _enlarge(self, image: torch.Tensor) -> torch.Tensor:
        if self.upscale == 1:
            return image
        return F.interpolate(image, scale_factor=float(self.upscale), mode="bilinear")

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        """(1, 256, rows, columns), as the prompt encoder's for 64 x 64 cells; of other sizes cells are as far apart."""
        matrix = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        down, right = ((torch.arange(n, device=matrix.device) + 0.5) / _GRID * 2 - 1 for n in (rows, columns))
        places = torch.stack(torch.meshgrid(right, down, indexing="xy"), dim=-1).to(matrix.dtype)  # (rows, columns, 2)
        angles = 2 * math.pi * places @ matrix
        return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)[None]


def _tiles(length: int, tile: int) -> list[slice]:
    """Covers so many cells with stretches of at most `tile`, evenly spread, a quarter of each in the next at least."""
    size = min(length, tile)
    steps = math.ceil((length - size) / (size - size // 4)) if length > size else 0
    starts = [round(step * (length - size) / max(steps, 1)) for step in range(steps + 1)]
    return [slice(start, start + size) for start in starts]


def _importance(height: int, width: int) -> torch.Tensor:
    """(height, width): how far a pixel is from the tile's border."""
    down, right = (torch.minimum(torch.arange(n) + 1, n - torch.arange(n)).float() for n in (height, width))
    return torch.minimum(down[:, None], right)


class Detail(nn.Module):
    """Adds to the decoder's features what an image has at their own resolution; at first nothing.

    Args:
        in_channels: of the image.
        width: of the convolutions.
    """

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.GELU())
        self.both = nn.Sequential(
            nn.Conv2d(width + _MASK_CHANNELS, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, _MASK_CHANNELS, 1),
        )
        for parameter in self.both[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Maps (N, 32, h, w) and (N, in_channels, h, w) to (N, 32, h, w)."""
        return features + self.both(torch.cat([features, self.image(image)], dim=1))


def create_sam_segmenter(
    in_channels: int = 3,
    variant: str = "vit_t",
    image_size: int = 1024,
    patch_stride: int | None = None,
    encoder: str = "frozen",
    upscale: int = 2,
    prompts: int = 4,
    detail_width: int = 0,
    tile: int = 64,
    cached: int = 512,
    weights_path: Path | str | None = None,
) -> SamSegmenter:
    """Builds a segmenter of Segment Anything's parts; nothing is downloaded.

    Args:
        in_channels: 1 (red, green and blue alike) or 3, in 0..1 less ImageNet's mean, over its standard deviation;
            for LiteMedSAM in 0..1.
        variant: "vit_t"; the others take images of one size only.
        image_size: 256 for LiteMedSAM, see `create_network`; images of every size are taken.
        patch_stride: see `create_network`.
        encoder: "frozen", or "adapted": trained with the rest, but for BatchNorm.
        upscale: how much the image is enlarged for the encoder: 1, 2 or 4; 1 for LiteMedSAM.
        prompts: vectors of the learned prompt.
        detail_width: channels of convolutions that see the image itself and add to the decoder's features; 0: none.
        tile: cells along a side that the decoder sees at once, those of a training window: of 8 pixels with upscale 2.
            The encoder sees larger images whole.
        cached: training images whose embeddings are kept in memory, 2 MB for one of 512 x 512 (frozen encoders).
        weights_path: see `load_pretrained`.

    Raises:
        InputError: a value out of range, or weights that do not fit.
    """
    if in_channels not in (1, 3):
        raise InputError(f"sam_segmenter: in_channels must be 1 or 3, got {in_channels!r}: change offsets or mean")
    if variant != "vit_t":
        raise InputError(f"sam_segmenter: variant must be vit_t, which takes images of every size, got {variant!r}")
    if encoder not in ENCODERS:
        raise InputError(f"sam_segmenter: encoder must be {' or '.join(ENCODERS)}, got {encoder!r}")
    if min(prompts, tile) < 1 or min(detail_width, cached) < 0:
        raise InputError(
            f"sam_segmenter: prompts and tile must be at least 1, detail_width and cached at least 0, got {prompts}, "
            f"{tile}, {detail_width} and {cached}"
        )
    sam = create_network(variant, image_size, patch_stride=patch_stride)
    if upscale not in UPSCALES or sam.image_encoder.stride < _CELL_IN_MASK * upscale:
        raise InputError(
            f"sam_segmenter: upscale must be 1, 2 or 4, and 1 for LiteMedSAM, whose masks are as large as its images, "
            f"got {upscale!r}"
        )
    model = SamSegmenter(sam, encoder, upscale, prompts, detail_width, tile, cached)
    if weights_path is not None:
        load_pretrained(model, weights_path)
    return model


def load_pretrained(model: SamSegmenter, weights_path: Path | str) -> tuple[list[str], list[str]]:
    """Loads Segment Anything's official weights, while prompt and detail stay fresh; or a whole model of ours.

    Args:
        model: changed in place.
        weights_path: see `load_weights_file`; MobileSAM's or LiteMedSAM's names.

    Returns:
        Names of the model's tensors that were loaded, and of those left fresh.

    Raises:
        InputError: as `load_weights_file`, or a tensor is missing or has another shape.
    """
    tensors = load_weights_file(weights_path, "sam_segmenter")
    own = model.state_dict()
    match = match_names(to_timm(tensors), own)._replace(source=tensors)
    whole = "prompt.weight" in match.tensors
    wanted = {name: tensor for name, tensor in own.items() if whole or not name.startswith(_OURS)}
    remedy = "give MobileSAM's weights, or LiteMedSAM's with image_size 256 and upscale 1"
    check_fit(weights_path, match, wanted, "do not fit this model", remedy, whole=whole)
    model.load_state_dict(match.tensors, strict=False)
    fresh = [name for name in own if name not in match.tensors]
    logger.info("%s: %s", weights_path, describe_loaded(match.tensors, fresh))
    return [name for name in own if name in match.tensors], fresh
