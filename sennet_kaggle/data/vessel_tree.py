"""The vessels of the synthetic kidney: a tree that grows from the hilum and fills the organ, by Murray's law."""

from typing import NamedTuple

import numpy as np

STEPS_PER_BRANCH = 4


class Organ(NamedTuple):
    """An ellipsoid, wider at one pole, with a dent (the sinus) on its +x side."""

    center: np.ndarray  # (3,)
    radii: np.ndarray  # (3,), semi-axes
    egg: float  # how much wider the +y pole is, as a fraction


class VesselTree(NamedTuple):
    """Branches of constant radius, each a polyline of straight segments."""

    start: np.ndarray  # (S, 3) float32
    end: np.ndarray  # (S, 3) float32
    branch: np.ndarray  # (S,) int, the branch that a segment belongs to
    radius: np.ndarray  # (B,) float32, lumen radius of each branch
    parent: np.ndarray  # (B,) int, -1 for the root


def organ_depth(organ: Organ, z: np.ndarray, y: np.ndarray, x: np.ndarray, *, with_sinus: bool = False) -> np.ndarray:
    """About how many voxels a point lies below the organ's surface (negative outside).

    Args:
        organ: the organ.
        z, y, x: voxel coordinates that broadcast together.
        with_sinus: count the dent at the hilum as inside.
    """
    # Plain floats: a numpy float64 would turn a float32 plane into a float64 one.
    center, radii, scale = organ.center.tolist(), organ.radii.tolist(), float(organ.radii.mean())
    w, v, u = ((axis - middle) / radius for axis, middle, radius in zip((z, y, x), center, radii, strict=True))
    u = u / (1 + organ.egg * v)
    hull = scale * (1 - np.sqrt(w**2 + v**2 + u**2))
    if with_sinus:
        return hull
    outside_dent = 0.4 * scale * (np.sqrt((w / 0.6) ** 2 + (v / 0.23) ** 2 + ((u - 0.75) / 0.36) ** 2) - 1)
    blend = np.maximum(1 - np.abs(hull - outside_dent) / (0.25 * scale), 0)  # rounds the lips of the dent
    return np.minimum(hull, outside_dent) - 0.06 * scale * blend**2


def grow_tree(
    organ: Organ,
    rng: np.random.Generator,
    root_radius: float,
    min_radius: float,
    hilum_y: float,
    early_ends: float = 0.13,
) -> VesselTree:
    """Grow a vessel tree from the hilum, all branches of a generation at once.

    Radii and angles at a bifurcation follow Murray's law, r0^3 = r1^3 + r2^3 (Murray 1926).

    Args:
        organ: the tree stays in it or in its sinus.
        rng: source of the jitter.
        root_radius: lumen radius at the hilum, voxels.
        min_radius: no branch is thinner, voxels.
        hilum_y: where the root enters, in semi-axes from the middle.
        early_ends: part of the thin branches that end early.
    """
    tip = (organ.center + organ.radii * (0, hilum_y, 0.8))[None]
    direction, radius, parent = np.array([[0.0, 0.0, -1.0]]), np.array([root_radius]), np.array([-1])
    segments, branches, first_branch = [], [], 0
    while len(radius):
        branches.append((radius, parent))
        tip, direction, complete, grown = _grow_branches(organ, rng, tip, direction, radius, root_radius)
        segments += [(start, end, first_branch + branch) for start, end, branch in grown]
        # Some thin branches end early, as they do in labels; without it a large kidney would be all vessels.
        goes_on = complete & ((rng.random(len(radius)) < 1 - early_ends) | (radius > 0.4 * root_radius))
        chosen, direction, radius = _bifurcate(rng, direction, radius, goes_on, min_radius, root_radius)
        tip, parent = tip[chosen], first_branch + chosen
        first_branch += len(complete)
    start, end, branch = (np.concatenate(part) for part in zip(*segments, strict=True))
    radius, parent = (np.concatenate(part) for part in zip(*branches, strict=True))
    return VesselTree(start.astype(np.float32), end.astype(np.float32), branch, radius.astype(np.float32), parent)


def _grow_branches(organ, rng, tip, direction, radius, root_radius):
    """Lengthen each branch by some jittered steps; one that would leave the organ stops there."""
    # Thin branches are longer for their radius than thick ones: the twigs fill the organ and do not clump.
    length = 4.5 * radius**0.65 * root_radius**0.35 * rng.lognormal(0, 0.35, len(radius))
    step = length / STEPS_PER_BRANCH
    growing, segments = np.ones(len(radius), bool), []
    for _ in range(STEPS_PER_BRANCH):
        # Near the surface a branch bends inwards, as arcuate arteries do.
        near = np.clip(1 - organ_depth(organ, *tip.T, with_sinus=True) / (0.2 * organ.radii.mean()), 0, 1)
        inwards = _unit(organ.center - tip) * (0.25 * near)[:, None]
        direction = _unit(direction + inwards + rng.normal(0, 0.14, tip.shape))
        end = tip + direction * step[:, None]
        margin = 1.35 * radius + 2
        growing &= organ_depth(organ, *end.T, with_sinus=True) > margin
        branch = np.flatnonzero(growing)
        segments.append((tip[branch], end[branch], branch))
        tip = np.where(growing[:, None], end, tip)
    return tip, direction, growing, segments


def _bifurcate(rng, direction, radius, goes_on, min_radius, root_radius):
    """Two daughters for each branch that goes on: parents' indices, directions, radii."""
    # Large branches part evenly and along the organ's long axis, so that both poles get vessels; thin ones anyhow.
    large = radius > 0.6 * root_radius
    share = rng.uniform(0.5, np.where(large, 0.6, 0.85))
    goes_on = goes_on & (radius * np.cbrt(1 - share) >= min_radius)
    parent, share = np.flatnonzero(goes_on), share[goes_on]
    direction, radius = direction[parent], radius[parent]
    sideways = rng.normal(size=direction.shape)
    sideways[:, 1] += 4 * large[parent] * rng.choice([-1, 1], len(parent))
    sideways = _unit(sideways - direction * (sideways * direction).sum(1, keepdims=True))
    daughters = []
    for this, other, side in ((share, 1 - share, sideways), (1 - share, share, -sideways)):
        cos = (1 + this ** (4 / 3) - other ** (4 / 3)) / (2 * this ** (2 / 3))
        daughters.append(cos[:, None] * direction + np.sqrt(1 - cos**2)[:, None] * side)
    radii = np.concatenate([radius * np.cbrt(share), radius * np.cbrt(1 - share)])
    return np.concatenate([parent, parent]), np.concatenate(daughters), radii


def _unit(vectors):
    """The (n, 3) vectors at length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
