"""Probability on any device → mask in main memory, eight pixels in a byte on the way."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F


def fetch_mask(probability: torch.Tensor, threshold: float, hysteresis: float = 1.0) -> np.ndarray:
    """Cuts a map at a threshold where it is; from a GPU only the mask comes back, eight pixels in a byte.

    Args:
        probability: (H, W) float32.
        threshold: above it a pixel is vessel.
        hysteresis: share of the threshold above which a pixel is vessel if others lead from it to one above the
            threshold (Canny 1986), next to each other or across a corner; 1 leaves that out.

    Returns:
        (H, W) bool; not a number is not above.
    """
    seeds = _above(probability, threshold)
    if hysteresis == 1:
        return seeds
    count, objects = cv2.connectedComponents(_above(probability, hysteresis * threshold).view(np.uint8), connectivity=8)
    kept = np.zeros(count, np.bool_)
    kept[objects[seeds]] = True
    kept[0] = False  # what is above neither
    return kept[objects]


def _above(probability: torch.Tensor, threshold: float) -> np.ndarray:
    """Where a map (H, W) is above a threshold, bool."""
    if probability.device.type == "cpu":
        return probability.numpy() > threshold
    mask = probability > threshold
    return unpack_bits(pack_bits(mask).cpu().numpy(), mask.shape)


def pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """Does on any device what np.packbits does: bool of any shape → (ceil(size / 8),) uint8."""
    bits = F.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)
    places = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=mask.device)
    return (bits * places).sum(1, dtype=torch.uint8)


def unpack_bits(packed: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The mask of a shape that `pack_bits` packed."""
    return np.unpackbits(packed, count=math.prod(shape)).view(np.bool_).reshape(shape)
