"""How well are the vessels of a mask measured whose tree is known? python benchmarks/vessels.py [--picture FILE]

Prints, as Markdown, measured length and radius over the true ones: of tubes and rings in random directions, each with
its spread, and of the synthetic kidney's tree. With --picture it draws the tree of the first one. Where skan and
kimimaro are installed, it also prints what these make of some of the masks.
"""

import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.data.phantom import Phantom, artery_tree, phantom_masks  # noqa: E402
from sennet_kaggle.data.tubes import ring, tube_mask  # noqa: E402
from sennet_kaggle.files import write_whole  # noqa: E402
from sennet_kaggle.rendering import figure_to_png, markdown_table  # noqa: E402
from sennet_kaggle.vessels.figures import figure_of_tree  # noqa: E402
from sennet_kaggle.vessels.measure import measure_vessels  # noqa: E402

REPEATS = 8
TUBE_LENGTH = 60
RADII = (0.75, 1, 1.5, 2, 3, 5, 8)
CIRCLES = ((8, 2), (12, 1), (12, 4), (24, 2), (40, 4))
VOXEL_SIZES = ((1, 1, 1), (2, 1, 1))
PHANTOM_SIDE, SEEDS = 256, (0, 1, 2)


def random_tilt(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(3, 3)))[0]


def tubes(voxel_size: tuple[float, float, float]) -> Iterator[tuple[str, float, float, Callable]]:
    """Name, true length, true radius and what draws one, of straight tubes and circles."""
    thinnest = max(voxel_size)
    for radius in RADII:
        yield f"straight, radius {radius * thinnest:g}", TUBE_LENGTH * thinnest, radius * thinnest, straight
    for circle, radius in CIRCLES:
        name = f"ring of {circle * thinnest:g}, radius {radius * thinnest:g}"
        yield name, 2 * math.pi * circle * thinnest, radius * thinnest, circular


def straight(rng: np.random.Generator, length: float) -> np.ndarray:
    return rng.uniform(0, 2, 3) + np.outer([0, length], random_tilt(rng)[0])


def circular(rng: np.random.Generator, length: float) -> np.ndarray:
    return rng.uniform(0, 2, 3) + ring(length / (2 * math.pi), random_tilt(rng))


def tube_row(name, length, radius, draw, voxel_size) -> list[str]:
    rng = np.random.default_rng(0)
    found = [measure_vessels(tube_mask([draw(rng, length)], radius, voxel_size), voxel_size) for _ in range(REPEATS)]
    totals = [each.totals for each in found]
    lengths = np.array([each["total_length_um"] for each in totals]) / length
    radii = np.array([each["mean_radius_um"] for each in totals]) / radius
    return [name, *(f"{each.mean():.3f} ± {each.std():.3f}" for each in (lengths, radii))]


def phantom_row(seed: int) -> tuple[list[str], np.ndarray]:
    phantom = Phantom((PHANTOM_SIDE,) * 3, seed)
    tree = artery_tree(phantom)
    lengths = np.linalg.norm(tree.end - tree.start, axis=1)
    mask = np.stack([*phantom_masks(phantom)])
    totals = measure_vessels(mask).totals
    branches, children = len(tree.radius), len(set(tree.parent.tolist()) - {-1})
    radius = float(np.average(tree.radius[tree.branch], weights=lengths))
    row = [
        f"seed {seed}",
        f"{totals['total_length_voxel'] / lengths.sum():.3f}",
        f"{totals['mean_radius_voxel'] / radius:.3f} of {radius:.2f}",
        f"{totals['segments']} of {branches}",
        f"{totals['branch_points']} of {children}",
        str(totals["loops"]),
    ]
    return row, mask


def other_tools(mask: np.ndarray) -> str:
    """What other libraries make of a mask: length in voxels and ends."""
    import kimimaro
    import networkx as nx
    from skan import Skeleton, summarize
    from skimage.morphology import skeletonize

    paths = summarize(Skeleton(skeletonize(mask)), separator="_")
    trees = kimimaro.skeletonize(
        mask.astype(np.uint8),
        teasar_params={"scale": 1.5, "const": 2, "pdrf_scale": 100000, "pdrf_exponent": 4},
        anisotropy=(1, 1, 1),
        dust_threshold=0,
        progress=False,
    )
    degrees = [degree for each in trees.values() for _, degree in nx.Graph(each.edges.tolist()).degree]
    length = sum(each.cable_length() for each in trees.values())
    return (
        f"scikit-image and skan: length {paths['branch_distance'].sum():.0f}; "
        f"kimimaro: length {length:.0f}, {degrees.count(1)} ends"
    )


def main() -> None:
    for voxel_size in VOXEL_SIZES:
        print(f"\nvoxels of {' x '.join(map(str, voxel_size))}, {REPEATS} directions each\n")
        rows = [tube_row(*each, voxel_size) for each in tubes(voxel_size)]
        print(markdown_table(["tube", "length / true", "radius / true"], rows))
    header = ["phantom", "length / true", "radius / true (voxels)", "segments", "branch points", "loops"]
    found = [phantom_row(seed) for seed in SEEDS]
    print(markdown_table(header, [row for row, _ in found]))
    if all(map(importlib.util.find_spec, ("skan", "kimimaro"))):
        circle = tube_mask([ring(20, np.eye(3))], 4)
        for name, mask in (("ring of 20, radius 4", circle), (found[0][0][0], found[0][1])):
            print(f"{name}: {other_tools(mask)}")
    if "--picture" in sys.argv:
        vessels = measure_vessels(found[0][1], 50)
        write_whole(sys.argv[sys.argv.index("--picture") + 1], figure_to_png(figure_of_tree(vessels)))


if __name__ == "__main__":
    main()
