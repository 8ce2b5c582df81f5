"""A slice and what was predicted for it → compressed pictures for the report page, within its budget of bytes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from ..errors import InputError
from .report import SegmentedSlice

HIT, MISS, FALSE_ALARM, PREDICTION = range(1, 5)  # the overlay's kinds; 0 is neither; slices.js has the same
KIND_STEP = 60  # grey levels between two kinds in the overlay's picture
# Sizes and WebP qualities of the grey pictures, the best first.
LONG_SIDES_AND_QUALITIES = (
    *((4096, 85), (2048, 80), (1536, 78), (1280, 76), (1024, 75), (1024, 60), (896, 55), (832, 52), (768, 50)),
    *((704, 48), (640, 45), (576, 42), (512, 40), (448, 38), (384, 35), (320, 32), (256, 30), (192, 25), (128, 20)),
    (64, 10),
)


class Pictures(NamedTuple):
    """What the page shows of one slice, as WebP files."""

    image: bytes
    overlays: list[bytes]
    """Of each run; the first is the page's own."""


class Window(NamedTuple):
    """Grey values shown as black and as white."""

    low: float
    high: float


@dataclass
class Budget:
    """Bytes of the page left for pictures, and the size they are made at."""

    bytes_left: int
    slices_left: int
    rung: int
    """Where to start in LONG_SIDES_AND_QUALITIES."""

    def draw(self, runs: Sequence[SegmentedSlice], window: Window) -> Pictures:
        """Draws a slice as large as the rest of the page allows.

        Args:
            runs: the slice with what each run predicted for it.
            window: grey values that become black and white.

        Raises:
            InputError: the smallest picture is too large.
        """
        # A crowded slice may take somewhat more than its share, the last one no more than what is left.
        share = min(1.25 * self.bytes_left / self.slices_left, self.bytes_left)
        for rung in range(self.rung, len(LONG_SIDES_AND_QUALITIES)):
            pictures = draw_pictures(runs, window, *LONG_SIDES_AND_QUALITIES[rung])
            if base64_size(pictures) <= share:
                self.bytes_left -= base64_size(pictures)
                self.slices_left -= 1
                return pictures
        raise InputError(
            f"max_bytes is too small for {self.slices_left} slices more, {max(self.bytes_left, 0)} bytes left: "
            "allow more, or fewer slices"
        )


def draw_pictures(runs: Sequence[SegmentedSlice], window: Window, long_side: int, quality: int) -> Pictures:
    """Scales a slice and what was predicted for it, and compresses both.

    Args:
        runs: the slice with what each run predicted for it.
        window: grey values that become black and white.
        long_side: pixels of the pictures' longer side at most; a smaller slice is not enlarged.
        quality: 1..100, of the grey picture; the overlays are lossless.

    Returns:
        `image` in grey; `overlays` with KIND_STEP times the kind of each pixel: of the slice's own size while they
        take no more bytes than the image, so that vessels can be looked at closely, else of the image's.
    """
    height, width = runs[0].image.shape
    scale = min(1, long_side / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    image = cv2.resize(runs[0].image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = ((image - window.low) * (255 / max(window.high - window.low, 1))).clip(0, 255).astype(np.uint8)
    picture = _webp(grey, quality)
    overlays = [_webp(kinds_at(each, (width, height)) * np.uint8(KIND_STEP), 101) for each in runs]
    if scale < 1 and max(map(len, overlays)) > len(picture):
        overlays = [_webp(kinds_at(each, size) * np.uint8(KIND_STEP), 101) for each in runs]
    return Pictures(picture, overlays)


def kinds_at(segmented: SegmentedSlice, size: tuple[int, int]) -> np.ndarray:
    """Scales the kinds of a slice's pixels down, so that thin vessels stay in sight.

    Args:
        segmented: the slice.
        size: (w, h) of the result.

    Returns:
        (h, w) uint8: the kind that covers most of a pixel, 0 where less than a quarter is covered.
    """
    mask_pred, mask_gt = segmented.mask_pred, segmented.mask_gt
    kinds = {PREDICTION: mask_pred}
    if mask_gt is not None:
        kinds = {HIT: mask_gt & mask_pred, MISS: mask_gt & ~mask_pred, FALSE_ALARM: mask_pred & ~mask_gt}
    coverage = np.stack(
        [cv2.resize(mask.view(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) for mask in kinds.values()]
    )
    most = np.array(list(kinds), np.uint8)[coverage.argmax(axis=0)]
    return np.where(coverage.sum(axis=0, dtype=np.uint16) >= 64, most, np.uint8(0))


def base64_size(pictures: Pictures) -> int:
    return sum(4 * math.ceil(len(picture) / 3) for picture in (pictures.image, *pictures.overlays))


def _webp(picture: np.ndarray, quality: int) -> bytes:
    """Compresses (H, W) uint8; a quality above 100 is lossless."""
    encoded, buffer = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not encoded:
        raise InputError(f"a slice of {picture.shape[0]}x{picture.shape[1]} cannot be written as WebP")
    return buffer.tobytes()
