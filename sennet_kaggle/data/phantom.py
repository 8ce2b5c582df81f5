"""A synthetic kidney in the competition's layout: where real scans may not be had, something true to work on.

The organ is an egg with a dent at the hilum. A branching tree of bright-walled vessels (the label is their lumen),
and two unlabelled traps, a tree of wall-less veins and a few cavities, lie in it. All coordinates are (z, y, x) voxels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..errors import InputError
from ..files import check_output_dir, replacing_dir, write_whole
from ..progress import progress_bar
from .vessel_tree import Organ, VesselTree, grow_tree, organ_depth

MIN_RADIUS = 0.75  # voxels; a thinner tube could slip between the voxel centres and break
ORGAN, ARTERIES, VEINS, CAVITIES = range(1, 5)  # each its own random stream


@dataclass(frozen=True)
class Phantom:
    """Settings of a synthetic kidney.

    Args:
        shape: D, H, W in voxels; a shallow D is a slab through the organ's middle.
        seed: every byte follows from it.
        background: grey level outside the organ and in its sinus.
        tissue: grey level of the organ.
        wall: grey level of the labelled vessels' walls.
        lumen: grey level inside vessels, veins and cavities.
        texture_sigma: grey levels, slow variation of the tissue that goes on from slice to slice.
        noise_sigma: grey levels, white noise of each slice before the scanner's blur.
        sinus: grey level of the dent at the hilum; that of the background when None.
        slow_sigma: grey levels, variation of the tissue over dozens of voxels; `texture_sigma` when None.
        root_radius: lumen radius of the artery at the hilum, as a part of the organ's mean radius.
        early_ends: part of the thin branches that end before they get as thin as can be.
        cavities: how many there are, and one more for each 50 slices.
    """

    shape: tuple[int, int, int] = (8, 384, 320)
    seed: int = 0
    background: float = 20500
    tissue: float = 26000
    wall: float = 30000
    lumen: float = 22000
    texture_sigma: float = 450
    noise_sigma: float = 900
    sinus: float | None = None
    slow_sigma: float | None = None
    root_radius: float = 0.055
    early_ends: float = 0.13
    cavities: int = 5

    def __post_init__(self) -> None:
        shape = self.shape
        if not isinstance(shape, tuple) or len(shape) != 3 or not all(type(size) is int for size in shape):
            raise InputError(f"shape must be a tuple of 3 ints (D, H, W), got {shape!r}")
        if shape[0] < 1 or min(shape[1:]) < 64:
            raise InputError(f"shape must have D >= 1 and H, W >= 64, got {shape}; ask for a larger phantom")
        if type(self.seed) is not int or self.seed < 0:
            raise InputError(f"seed must be an int >= 0, got {self.seed!r}")
        for field in ("background", "tissue", "wall", "lumen", "texture_sigma", "noise_sigma", "sinus", "slow_sigma"):
            value = getattr(self, field)
            if not (value is None and field in ("sinus", "slow_sigma")) and not 0 <= value <= 65535:
                raise InputError(f"{field} must be a grey level in 0..65535, got {value!r}")
        if type(self.cavities) is not int or self.cavities < 0:
            raise InputError(f"cavities must be an int >= 0, got {self.cavities!r}")
        for field in ("root_radius", "early_ends"):
            if not 0 < getattr(self, field) < 1:
                raise InputError(f"{field} must lie between 0 and 1, got {getattr(self, field)!r}")


KIDNEY_LIKE = Phantom(
    shape=(4, 1303, 912),
    background=20600,
    tissue=25500,
    wall=28700,
    lumen=22300,
    noise_sigma=680,
    sinus=21800,
    slow_sigma=850,
    root_radius=0.045,
    early_ends=0.14,
    cavities=12,
)
"""In numbers like kidney_1_dense at its own voxel size; docs/phantom.md has both beside each other."""


def write_phantom(
    root_dir: Path,
    name: str,
    phantom: Phantom,
    *,
    split: str = "train",
    with_labels: bool = True,
    progress: bool = False,
) -> Path:
    """Write a phantom slice by slice as `root_dir/split/name/{images,labels}/0000.tif ...`.

    Args:
        root_dir: folder that holds the splits; made if missing.
        name: the kidney's folder.
        phantom: what to draw.
        split: "train" or "test".
        with_labels: also write `labels/` (uint8, 0 or 255) beside `images/` (uint16); both uncompressed.
        progress: show a bar.

    Returns:
        The kidney's folder.

    Raises:
        InputError: `split` or `name` is no plain folder name, or the kidney's folder is not empty.
    """
    for argument, value in (("split", split), ("name", name)):
        if value in ("", ".", "..") or any(separator in value for separator in "/\\"):
            raise InputError(f"{argument} must be a folder name without path separators, got {value!r}")
    kidney_dir = Path(root_dir) / split / name
    if kidney_dir.exists() and not (kidney_dir.is_dir() and not any(kidney_dir.iterdir())):
        raise InputError(f"{kidney_dir} must be new or an empty folder, found files; choose another name or remove it")
    check_output_dir(kidney_dir)
    with replacing_dir(kidney_dir) as new_dir:
        for folder in ("images", "labels")[: 1 + with_labels]:
            (new_dir / folder).mkdir()
        slices = progress_bar("drawing", phantom.shape[0], phantom_slices(phantom), shown=progress)
        for z, (slice_, mask) in enumerate(slices):
            _write_tif(new_dir / "images" / f"{z:04d}.tif", slice_)
            if with_labels:
                _write_tif(new_dir / "labels" / f"{z:04d}.tif", mask.astype(np.uint8) * 255)
    return kidney_dir


def phantom_slices(phantom: Phantom) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw a phantom slice by slice, in the memory of a few slices.

    Args:
        phantom: what to draw.

    Yields:
        The slice (H, W) uint16 and its vessel mask (H, W) bool, from z = 0 up.
    """
    organ, arteries, ends = make_organ(phantom), artery_tree(phantom), phantom.early_ends
    radius = 0.8 * _root_radius(phantom, organ)
    veins = grow_tree(organ, _rng(phantom, VEINS), radius, 2 * MIN_RADIUS, hilum_y=0.1, early_ends=ends)
    cavities = _make_cavities(phantom, organ)
    for z in range(phantom.shape[0]):
        slice_ = _draw_tissue(phantom, organ, z)
        slice_[_draw_cavities(cavities, phantom.shape, z)] = phantom.lumen
        slice_[draw_tubes(veins, phantom.shape, z)[0]] = phantom.lumen
        # All walls before all lumens: where two vessels meet, the lumens join and no wall is left across them.
        mask, vessel = draw_tubes(arteries, phantom.shape, z)
        slice_[vessel] = phantom.wall
        slice_[mask] = phantom.lumen
        yield _scan(slice_, phantom, z), mask


def artery_tree(phantom: Phantom) -> VesselTree:
    """The true centre lines and radii of a phantom's labelled vessels, also where they lie outside its slices."""
    organ = make_organ(phantom)
    radius, ends = _root_radius(phantom, organ), phantom.early_ends
    return grow_tree(organ, _rng(phantom, ARTERIES), radius, MIN_RADIUS, hilum_y=-0.06, early_ends=ends)


def phantom_masks(phantom: Phantom) -> Iterator[np.ndarray]:
    """The vessel masks alone of a phantom's slices, (H, W) bool, from z = 0 up."""
    arteries = artery_tree(phantom)
    return (draw_tubes(arteries, phantom.shape, z)[0] for z in range(phantom.shape[0]))


def _root_radius(phantom: Phantom, organ: Organ) -> float:
    return max(phantom.root_radius * float(organ.radii.mean()), 3 * MIN_RADIUS)


def make_organ(phantom: Phantom) -> Organ:
    """The organ of a phantom: it fills the slice, and goes on above and below a shallow volume."""
    size = np.array(phantom.shape, np.float32)
    radii = size * (0.45, 0.44, 0.42)
    radii[0] = max(radii[0], radii[1:].mean())
    return Organ((size - 1) / 2, radii, _rng(phantom, ORGAN).uniform(-0.2, 0.2))


def draw_tubes(tree: VesselTree, shape: tuple[int, int, int], z: int) -> tuple[np.ndarray, np.ndarray]:
    """The voxels of one slice in the tree's lumens, and those in its lumens or walls: two (H, W) bool planes."""
    lumen, vessel = np.zeros(shape[1:], bool), np.zeros(shape[1:], bool)
    radii = tree.radius[tree.branch]
    outer_radii = radii + np.maximum(1, 0.35 * radii)
    low = np.minimum(tree.start, tree.end) - outer_radii[:, None]  # (S, 3)
    high = np.maximum(tree.start, tree.end) + outer_radii[:, None]
    for index in np.flatnonzero((low[:, 0] <= z) & (high[:, 0] >= z)):
        window, y, x = _window(shape, low[index], high[index])
        distance2 = distance2_to_segment(tree.start[index], tree.end[index], z, y, x)
        lumen[window] |= distance2 < radii[index] ** 2
        vessel[window] |= distance2 < outer_radii[index] ** 2
    return lumen, vessel


def _window(shape, low, high):
    """The part of a slice between two corners (3,), as slices, and the coordinates y (h, 1) and x (1, w) there."""
    limits = [
        (max(math.floor(a), 0), max(min(math.ceil(b) + 1, size), 0))
        for a, b, size in zip(low[1:].tolist(), high[1:].tolist(), shape[1:], strict=True)
    ]
    y, x = (np.arange(*limit, dtype=np.float32) for limit in limits)
    return tuple(slice(*limit) for limit in limits), y[:, None], x


def distance2_to_segment(start, end, z, y, x):
    """Squared distance of the points (z, y, x) to the segment; a tube of such points has round caps."""
    (z0, y0, x0), (dz, dy, dx) = start.tolist(), (end - start).tolist()
    z, y, x = z - z0, y - y0, x - x0
    t = ((z * dz + x * dx) + y * dy) / (dz * dz + dy * dy + dx * dx)
    t = np.minimum(np.maximum(t, 0), 1)  # half the time of np.clip on such small windows
    return (z - t * dz) ** 2 + (y - t * dy) ** 2 + (x - t * dx) ** 2


def _make_cavities(phantom, organ):
    """Centres and semi-axes (2, n, 3) of a few ellipsoids that begin in the tissue of the drawn slices."""
    rng, count = _rng(phantom, CAVITIES), phantom.cavities + phantom.shape[0] // 50
    center = rng.uniform(0, np.array(phantom.shape) - 1, (40 * count, 3))
    semi_axes = rng.uniform(0.015, 0.05, center.shape) * organ.radii.mean()
    inside = organ_depth(organ, *center.T) > 0.1 * organ.radii.mean()
    return np.stack([center[inside][:count], semi_axes[inside][:count]])


def _draw_cavities(cavities, shape, z):
    """The voxels of one slice inside a cavity, (H, W) bool."""
    plane = np.zeros(shape[1:], bool)
    for center, semi_axes in zip(*cavities, strict=True):
        window, y, x = _window(shape, center - semi_axes, center + semi_axes)
        w, v, u = ((axis - c) / s for axis, c, s in zip((z, y, x), center.tolist(), semi_axes.tolist(), strict=True))
        plane[window] |= w**2 + v**2 + u**2 < 1
    return plane


def _draw_tissue(phantom, organ, z):
    """One slice of the organ without vessels, in its mottled surroundings, (H, W) float32."""
    y, x = (np.arange(size, dtype=np.float32) for size in phantom.shape[1:])
    depth = organ_depth(organ, np.float32(z), y[:, None], x).astype(np.float32)
    slow, grain = _texture(phantom, z, 48), _texture(phantom, z, 5)
    flakes = np.tanh(2 * _texture(phantom, z, 20))
    inside = depth > 0
    varied = slow if phantom.slow_sigma is None else slow * np.float32(phantom.slow_sigma / phantom.texture_sigma)
    slice_ = np.where(inside, varied + 0.7 * grain, 0.8 * flakes - 0.4 * slow + 0.3 * grain)
    slice_ *= phantom.texture_sigma
    slice_ += np.where(inside, np.float32(phantom.tissue), np.float32(phantom.background))
    if phantom.sinus is not None:
        hull = organ_depth(organ, np.float32(z), y[:, None], x, with_sinus=True)
        slice_[~inside & (hull > 0)] += phantom.sinus - phantom.background
    slice_[inside & (depth < 2.5)] += 0.35 * (phantom.wall - phantom.tissue)  # the bright capsule
    return slice_


def _texture(phantom, z, spacing):
    """Smooth noise of about unit variance, one random value each `spacing` voxels, (H, W) float32."""
    index, offset = divmod(z, spacing)
    t = offset / spacing
    grid_shape = [size // spacing + 2 for size in phantom.shape[1:]]
    below, above = (_rng(phantom, index + i, spacing).standard_normal(grid_shape, np.float32) for i in (0, 1))
    grid = ((1 - t) * below + t * above) / math.hypot(1 - t, t)
    return cv2.resize(grid, phantom.shape[:0:-1], interpolation=cv2.INTER_CUBIC)


def _scan(slice_, phantom, z):
    """Add the scanner's noise and blur: (H, W) uint16."""
    rng = np.random.default_rng((phantom.seed, z))
    slice_ = slice_ + phantom.noise_sigma * rng.standard_normal(slice_.shape, np.float32)
    return np.clip(cv2.GaussianBlur(slice_, (0, 0), 0.6), 0, 65535).astype(np.uint16)


def _rng(phantom, *key):
    """A random stream for each key, so that no part of the phantom hangs on the drawing of another."""
    return np.random.default_rng((phantom.seed, 0, *key, 1))


def _write_tif(path, image):
    """Write an uncompressed TIFF, whole or not at all."""
    encoded = cv2.imencode(".tif", image, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1]
    write_whole(path, encoded.tobytes())
