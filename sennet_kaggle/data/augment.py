"""Augmentation of training slices: windows, flips, turns and zoom, brightness and contrast."""

import cv2
import numpy as np

_ZOOM = (0.6, 1.4)
_GAIN = (0.75, 1.25)
_OFFSET = 0.1
_GAMMA = (0.7, 1.4)
_BLUR_SIGMA = (0.3, 1.2)
_PART = 0.3  # of the windows that gamma, blur and noise each change
ON_VESSEL = 0.5  # of the windows that are laid on a vessel; the others fall anywhere


def augment_pair(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Varies a slice: a window of another size and aspect, flips, quarter turns, contrast.

    Kidneys are resized to one square from unlike sizes, so scale and aspect at the model's input differ
    more between kidneys than within one; the window has its own zoom on either axis for that.

    Args:
        image: (C, H, W) float32.
        mask: (K, H, W) or (H, W) bool.

    Returns:
        An image and a mask of one size that is not (H, W).
    """
    height, width = mask.shape[-2:]
    rows = _random_window(height, rng.uniform(*_ZOOM), rng)
    columns = _random_window(width, rng.uniform(*_ZOOM), rng)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    image, mask = (array[..., rows[:, None], columns] for array in (image, mask))
    turns, flip = rng.integers(4), rng.integers(2)
    image, mask = (np.rot90(array[..., ::-1] if flip else array, turns, (-2, -1)) for array in (image, mask & inside))
    return np.ascontiguousarray(_contrast(image, rng)), np.ascontiguousarray(mask)


def draw_window(
    mask: np.ndarray, roi_size: int, zoom_range: tuple[float, float] | None, rng: np.random.Generator
) -> np.ndarray:
    """Chooses where in a slice a training window lies: half of the time on a vessel, else anywhere.

    Args:
        mask: (H, W) bool.
        roi_size: side of the window in pixels.
        zoom_range: turn it by any angle, mirror it, and enlarge it by so much, at least and at most; None leaves
            the slice's own pixels.
        rng: the source of chance.

    Returns:
        (2, 3) float64, the affine map from window pixels (column, row) to slice pixels.
    """
    height, width = mask.shape
    row: float
    column: float
    vessels = np.flatnonzero(mask) if rng.random() < ON_VESSEL else ()
    if len(vessels):
        top, left = divmod(int(vessels[rng.integers(len(vessels))]), width)
        row, column = top + rng.uniform(-0.5, 0.5) * roi_size / 2, left + rng.uniform(-0.5, 0.5) * roi_size / 2
    else:
        row, column = rng.uniform(0, height), rng.uniform(0, width)
    return place_window(row, column, height, width, roi_size, zoom_range, rng)


def place_window(
    row: float,
    column: float,
    height: int,
    width: int,
    roi_size: int,
    zoom_range: tuple[float, float] | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Lays a window round a point of a plane, as far as the plane's borders let it.

    Args:
        row: of the point, with whole numbers at the pixels' borders.
        column: of the point.
        height: of the plane.
        width: of the plane.
        roi_size: see `draw_window`, as for the next two, and what it returns.
        zoom_range: turn, mirror and enlarge it.
        rng: the source of chance.
    """
    angle, zoom, mirror = 0.0, 1.0, 1.0
    if zoom_range:
        angle, mirror = rng.uniform(0, 2 * np.pi), rng.choice((-1.0, 1.0))
        zoom = np.exp(rng.uniform(*np.log(zoom_range)))
    half = roi_size / 2 / zoom
    # A window that the slice can hold stays within it; of a larger one the slice is the middle.
    row = np.clip(row, half, height - half) if height > 2 * half else height / 2
    column = np.clip(column, half, width - half) if width > 2 * half else width / 2
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    linear = np.array([[cosine * mirror, -sine], [sine * mirror, cosine]])
    first = np.array([column, row]) - 0.5 - linear @ np.full(2, (roi_size - 1) / 2)
    return np.column_stack((linear, first if zoom_range else first.round()))  # whole pixels need no interpolation


def cut_window(array: np.ndarray, placement: np.ndarray, roi_size: int) -> np.ndarray:
    """Takes a window out of a slice, straight from its own grey values in one interpolation.

    Args:
        array: (H, W) uint8 or uint16, bilinear with the border repeated; or bool, nearest and False outside.
        placement: of `draw_window`.
        roi_size: side of the window.

    Returns:
        (roi_size, roi_size), of the array's dtype.
    """
    is_mask = array.dtype == np.bool_
    window = cv2.warpAffine(
        array.astype(np.uint8) if is_mask else array,
        placement,
        (roi_size, roi_size),
        flags=cv2.WARP_INVERSE_MAP | (cv2.INTER_NEAREST if is_mask else cv2.INTER_LINEAR),
        borderMode=cv2.BORDER_CONSTANT if is_mask else cv2.BORDER_REPLICATE,
    )
    return window.astype(np.bool_) if is_mask else window


def vary_light(image: np.ndarray, strength: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Varies contrast and brightness of a window, and some windows' gamma, sharpness and noise.

    Args:
        image: (C, h, w) float32, about 0..1; all channels are varied alike, but for noise.
        strength: of every change but noise; 0 has none.
        noise: the largest standard deviation of white noise, in units of the image; 0 has none.
        rng: the source of chance.

    Returns:
        (C, h, w) float32.
    """
    if rng.random() < _PART:
        exponent = np.float32(np.exp(strength * rng.uniform(*np.log(_GAMMA))))
        image = np.sign(image) * np.abs(image) ** exponent
    if rng.random() < _PART:
        sigma = max(strength * rng.uniform(*_BLUR_SIGMA), 1e-3)
        image = np.stack([cv2.GaussianBlur(each, (5, 5), sigma, borderType=cv2.BORDER_REFLECT_101) for each in image])
    if rng.random() < _PART:
        image = image + rng.normal(0, rng.uniform(0, noise), image.shape).astype(np.float32)
    return _contrast(image, rng, strength)


def _contrast(image: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    gain = 1 + strength * (rng.uniform(*_GAIN) - 1)
    return image * np.float32(gain) + np.float32(strength * rng.uniform(-_OFFSET, _OFFSET))


def _random_window(length: int, zoom: float, rng: np.random.Generator) -> np.ndarray:
    """Indices of a window of length/zoom somewhere in (zoom > 1) or around (zoom < 1) an axis."""
    window = max(1, round(length / zoom))
    first = rng.integers(min(0, length - window), max(0, length - window), endpoint=True)
    return np.arange(first, first + window)
