"""Masks of all slices → the surface of the vessels in few triangles, packed for the report page."""

import base64
import gzip
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np

from ..data.organ import find_organ

MESH_SIDE = 224  # voxels along the longest side of the 3D view's volume
SHELL_SIDE = 72  # of the organ's, which is smooth
MAX_TRIANGLES = 150_000  # of a kidney's meshes together
SHELL_TRIANGLES, SHELL_BLUR = 6_000, 1.2


class Mesh(NamedTuple):
    """A surface in voxel coordinates of the scan."""

    vertices: np.ndarray  # (V, 3) float32, z y x
    faces: np.ndarray  # (F, 3) int32, indices of vertices


@dataclass
class CoarseMask:
    """Collects a mask slice by slice; a coarse voxel is set where any voxel in it is.

    Args:
        shape: D, H, W of the mask.
    """

    shape: tuple[int, int, int]
    side: ClassVar[int] = MESH_SIDE
    factor: int = field(init=False)
    mask: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.factor = math.ceil(max(self.shape) / self.side)
        self.mask = np.zeros([math.ceil(size / self.factor) for size in self.shape], np.bool_)

    def add(self, z: int, mask: np.ndarray) -> None:
        """Adds slice z: (H, W) bool."""
        factor, (_, height, width) = self.factor, self.mask.shape
        padded = np.zeros((height * factor, width * factor), np.bool_)
        padded[: mask.shape[0], : mask.shape[1]] = mask
        rows = padded.reshape(height, factor, width * factor).any(axis=1)
        self.mask[z // factor] |= rows.reshape(height, width, factor).any(axis=2)


class CoarseOrgan(CoarseMask):
    """Collects where the organ is, from one slice of each coarse layer, for a shell around the vessels."""

    side = SHELL_SIDE

    def add_image(self, z: int, slice_: np.ndarray) -> None:
        """Looks at slice z, (H, W) uint8 or uint16, where it is the first of its layer."""
        if z % self.factor:
            return
        organ, (_, height, width) = find_organ(slice_), self.mask.shape
        if organ is not None:
            small = cv2.resize(organ.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
            self.mask[z // self.factor] = small > 0.5

    def keep_largest(self) -> None:
        """Drops what hangs apart from the organ: bright medium in slices beyond its ends."""
        from scipy.ndimage import label

        parts, count = label(self.mask)
        if count > 1:
            self.mask = parts == 1 + np.bincount(parts.ravel())[1:].argmax()


def surface(coarse: CoarseMask, blur: float = 0.6) -> Mesh | None:
    """The surface of a mask by marching cubes (Lewiner et al. 2003).

    Args:
        coarse: the mask.
        blur: standard deviation in coarse voxels; with little of it thin vessels stay whole.

    Returns:
        The mesh in voxels of the scan; None for an empty mask.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.measure import marching_cubes

    if not coarse.mask.any():
        return None
    # A frame of background closes vessels at the border; a slight blur takes the stairs off.
    padded = np.pad(coarse.mask, 2).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(gaussian_filter(padded, blur, truncate=3), 0.25)
    return Mesh((vertices - 1.5) * np.float32(coarse.factor) - np.float32(0.5), faces.astype(np.int32))


def decimate(mesh: Mesh, max_triangles: int) -> Mesh:
    """Merges vertices where that changes the surface least (Garland and Heckbert 1997).

    Args:
        mesh: the mesh; returned as it is when it is small enough.
        max_triangles: how many there may be about; the library stops close to it.
    """
    from fast_simplification import simplify

    if len(mesh.faces) <= max_triangles:
        return mesh
    vertices, faces = simplify(mesh.vertices, mesh.faces, target_count=max_triangles)
    return Mesh(vertices.astype(np.float32), faces.astype(np.int32))


def encode_mesh(mesh: Mesh) -> tuple[dict[str, Any], str, str]:
    """Packs a mesh: vertices as fractions of their bounding box in 16 bits, faces as differences in 32 bits."""
    # Neighbours in the file become neighbours in space, and so the differences small.
    order = np.lexsort(np.floor(mesh.vertices / 8).T[::-1])
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    vertices, faces = mesh.vertices[order], rank[mesh.faces]
    faces = faces[np.argsort(faces.min(axis=1), kind="stable")]
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    fractions = np.round((vertices - low) / np.maximum(high - low, 1e-6) * 65535).astype("<u2")
    steps = np.diff(faces.astype("<i4"), axis=0, prepend=np.zeros((1, 3), "<i4"))
    facts = {"low": low.tolist(), "high": high.tolist(), "triangles": len(faces)}
    # Column by column: like stands beside like, which packs better.
    return facts, pack_text(fractions.T.tobytes()), pack_text(steps.T.tobytes())


def pack_text(payload: bytes) -> str:
    return base64.b64encode(gzip.compress(payload, 9, mtime=0)).decode()
