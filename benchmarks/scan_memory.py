"""Time and peak memory of segment, or of vessels, on a synthetic OME-Zarr scan, in a process of its own.

    python benchmarks/scan_memory.py phantom DEPTH HEIGHT WIDTH FOLDER
    python benchmarks/scan_memory.py segment --input FOLDER/scan.ome.zarr --output FOLDER/mask.ome.zarr --extra-scales
    python benchmarks/scan_memory.py vessels --mask FOLDER/truth.ome.zarr --output-dir FOLDER/tree
    python benchmarks/scan_memory.py tree FOLDER/tree DEPTH HEIGHT WIDTH
    python benchmarks/scan_memory.py workers FOLDER --extra-scales --tta none

The first writes a synthetic kidney slice by slice: scan.ome.zarr, and truth.ome.zarr, the mask of its vessels. The
next two run commands of the package, with all their options, and print their time and peak memory. The last
two compare: what `vessels` found with the tree that the kidney was drawn from; and FOLDER/scan.ome.zarr segmented by
one process, by two Dask workers, and by two of which one is killed when the first block is done.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.data.phantom import Phantom, artery_tree, phantom_slices  # noqa: E402
from sennet_kaggle.data.vessel_tree import VesselTree  # noqa: E402
from sennet_kaggle.progress import progress_bar  # noqa: E402
from sennet_kaggle.scans.opening import open_mask  # noqa: E402
from sennet_kaggle.scans.partial import partial_dir  # noqa: E402
from sennet_kaggle.scans.writing import create_output  # noqa: E402

VOXEL_SIZE_UM = 50.0
MEASURED = """
import resource, sys
from sennet_kaggle.__main__ import main
if __name__ == "__main__":
    status = main(sys.argv[1:])
    own, workers = (resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peaks = [each.ru_maxrss * 1024 / 1e9 for each in (own, workers)]
    print(f"peak memory: {peaks[0]:.2f} GB, of its largest worker {peaks[1]:.2f} GB")
    print(f"CPU time: {own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime:.0f} s")
    sys.exit(status)
"""


def write_scan(shape: tuple[int, int, int], folder: Path) -> None:
    """A phantom as scan.ome.zarr, and its mask as truth.ome.zarr; what is there already is taken again."""
    scan_path, truth_path = folder / "scan.ome.zarr", folder / "truth.ome.zarr"
    if scan_path.exists() and truth_path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    size = (VOXEL_SIZE_UM,) * 3
    with (
        create_output(scan_path, shape, "uint16", size) as put,
        create_output(truth_path, shape, bool, size) as put_mask,
    ):
        for slice_, mask in progress_bar("drawing", shape[0], phantom_slices(Phantom(shape))):
            put(slice_)
            put_mask(mask)


def run_measured(arguments: list[str], watch: Callable[[subprocess.Popen], None] | None = None) -> int:
    """Runs a command of the package and prints what it took; `watch` is given the process."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "measured.py"
        program.write_text(MEASURED)
        started = time.monotonic()
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen([sys.executable, str(program), *arguments], env=environment)
        if watch is not None:
            watch(process)
        status = process.wait()
        print(f"time: {time.monotonic() - started:.0f} s", flush=True)
    return status


def compare_workers(folder: Path, options: list[str]) -> None:
    """Segments FOLDER/scan.ome.zarr in three ways, and counts the voxels in which the masks differ."""
    ways: dict[str, list[str]] = {"one process": [], "two workers": ["--workers", "2"]}
    ways["two workers, one killed"] = ways["two workers"]
    masks = []
    with tempfile.TemporaryDirectory(dir=folder) as results:
        for number, (way, workers) in enumerate(ways.items()):
            output = Path(results) / f"{number}.ome.zarr"
            print(f"--- {way}", flush=True)
            command = ["segment", "--input", str(folder / "scan.ome.zarr"), "--output", str(output), *workers]
            run_measured([*command, *options], partial(kill_a_worker, output) if "killed" in way else None)
            masks.append(open_mask(output))
            differ = sum(int((a != b).sum()) for a, b in zip(masks[0], masks[-1], strict=True))
            print(
                f"{sum(int(each.sum()) for each in masks[-1])} voxels of vessel, {differ} unlike those of one process"
            )


def kill_a_worker(output: Path, process: subprocess.Popen) -> None:
    """Kills one of a run's workers when its first block is finished."""
    import psutil

    while process.poll() is None:
        if [*partial_dir(output).glob("block-*")]:
            workers = [each for each in psutil.Process(process.pid).children() if "spawn_main" in str(each.cmdline())]
            workers[0].kill()
            print(f"killed a worker, {len(workers) - 1} left", flush=True)
            return
        time.sleep(0.05)


def compare_tree(folder: Path, shape: tuple[int, int, int]) -> None:
    """Prints what `vessels` found in a phantom's own mask over what it was drawn from."""
    tree = artery_tree(Phantom(shape))
    found = json.loads((folder / "totals.json").read_text())
    lengths = lengths_within(tree, shape)
    last = np.unique(tree.branch[::-1], return_index=True)[1]  # of each branch's segments, counted from the end
    forks = tree.end[::-1][last][np.unique(tree.parent[tree.parent >= 0])]
    true = {
        "length, mm": lengths.sum() * VOXEL_SIZE_UM / 1e3,
        "mean radius, µm": np.average(tree.radius[tree.branch], weights=lengths) * VOXEL_SIZE_UM,
        "branch points": int(((forks >= 0) & (forks <= np.array(shape) - 1)).all(axis=1).sum()),
    }
    measured = (found["total_length_um"] / 1e3, found["mean_radius_um"], found["branch_points"])
    for (name, truth), value in zip(true.items(), measured, strict=True):
        print(f"{name}: {value:.6g} of {truth:.6g}, {value / truth:.3f}")
    print(f"loops: {found['loops']} of 0")


def lengths_within(tree: VesselTree, shape: tuple[int, int, int]) -> np.ndarray:
    """How much of each straight segment lies in the volume: (S,), in voxels."""
    steps = tree.end - tree.start
    steps[steps == 0] = 1e-9
    faces = np.stack([(np.full(3, -0.5) - tree.start) / steps, (np.array(shape) - 0.5 - tree.start) / steps])
    enters, leaves = faces.min(axis=0).max(axis=1), faces.max(axis=0).min(axis=1)  # the whole segment is 0 to 1
    return np.maximum(leaves.clip(0, 1) - enters.clip(0, 1), 0) * np.linalg.norm(steps, axis=1)


def main(command: str, *arguments: str) -> int:
    if command == "phantom":
        *shape, folder = arguments
        write_scan(_shape(shape), Path(folder))
    elif command == "tree":
        folder, *shape = arguments
        compare_tree(Path(folder), _shape(shape))
    elif command == "workers":
        folder, *options = arguments
        compare_workers(Path(folder), options)
    else:
        return run_measured([command, *arguments])
    return 0


def _shape(numbers: list[str]) -> tuple[int, int, int]:
    depth, height, width = map(int, numbers)
    return depth, height, width


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
