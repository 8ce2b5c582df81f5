"""The recipe for the full data in miniature: the commands of docs/recipe.md, in their order, on synthetic kidneys.

    python tests/recipe_in_miniature.py --output-dir recipe

Makes a copy of the repository in the output folder, small kidneys of the five kinds that the competition has, and runs
every command there, with a few steps of a small model in place of the full training. `make recipe` does it, and
tests/studies/test_recipe.py looks at what comes of it. What needs Kaggle's network is left out.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.data.phantom import Phantom, phantom_slices  # noqa: E402

PAGE = REPOSITORY / "docs" / "recipe.md"
NOTE = ".made-by-recipe"
SKIPPED = (".venv/bin/kaggle", "unzip")
"""Commands that need Kaggle's network, or what they download, by how they begin."""
_MODEL = '{"encoder": "convnext_atto", "decoder_widths": [4, 4, 8, 8, 8], "stem_width": 4}'
SHORTENED = {
    "train": f"--model-arguments '{_MODEL}' --epochs 1 --epoch-slices 8 --window-size 64 --batch-size 4 --accumulate 1 "
    "--roi-size 96 --evaluate-every 1 --workers 0",
    "predict": "--tta none",
}
"""Options that shorten a command; the last option given counts."""
SIZE = (72, 64)
DENSE_ROWS = range(4, 37)
"""The slices of kidney_3_sparse that have dense labels, as 0496 to 0996 in the competition."""
Slices = list[tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("recipe"), help="made anew; only what this made goes")
    output_dir = parser.parse_args().output_dir
    if output_dir.exists() and not (output_dir / NOTE).is_file() and any(output_dir.iterdir()):
        sys.exit(f"error: expected {output_dir} to be new or made by this command, found other files: choose another")
    shutil.rmtree(output_dir, ignore_errors=True)
    started = time.perf_counter()
    run(output_dir)
    print(f"the recipe in miniature: all commands of {PAGE.name} in {time.perf_counter() - started:.0f} s")


def run(output_dir: Path) -> None:
    """Makes the copy and the kidneys, and runs the page's commands in it.

    Raises:
        subprocess.CalledProcessError: one of them failed.
    """
    make_clone(output_dir)
    write_data(output_dir / "DATA")
    for command in commands():
        if command.startswith(SKIPPED):
            print(f"(left out) {command}", flush=True)
            continue
        command = shortened(command)
        print(f"$ {command}", flush=True)
        subprocess.run(["sh", "-c", command], cwd=output_dir, check=True)


def commands() -> list[str]:
    """The lines of the page's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def shortened(command: str) -> str:
    """A command with the options that make it short."""
    words = command.split()
    name = words[words.index("sennet_kaggle") + 1] if "sennet_kaggle" in words else ""
    return f"{command} {SHORTENED[name]}" if name in SHORTENED else command


def make_clone(clone_dir: Path) -> None:
    """What git would check out, with `.venv/bin/python` being this one; torchrun there starts a single process."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (clone_dir / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, clone_dir / name)
    (clone_dir / NOTE).touch()
    programs = {"python": f'exec "{sys.executable}" "$@"', "torchrun": f'shift 2; exec "{sys.executable}" "$@"'}
    for name, line in programs.items():
        path = clone_dir / ".venv" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)


def write_data(data_dir: Path) -> None:
    """Small kidneys of the five kinds that the competition has for training, and two to segment."""
    first, third = draw((34, *SIZE), 1), draw((40, *SIZE), 3)
    write_kidney(data_dir / "train/kidney_1_dense", first)
    write_kidney(data_dir / "train/kidney_1_voi", zoomed(34, SIZE[1], 1))
    write_kidney(data_dir / "train/kidney_2", with_gaps(draw((34, *SIZE), 2), 0.65))
    write_kidney(data_dir / "train/kidney_3_sparse", with_gaps(third, 0.85))
    # Labels alone, whose images are those of the same names in kidney_3_sparse.
    dense = [third[z] for z in DENSE_ROWS]
    write_kidney(data_dir / "train/kidney_3_dense", dense, first=DENSE_ROWS.start, kinds=("labels",))
    write_kidney(data_dir / "test/kidney_5", draw((4, *SIZE), 5), kinds=("images",))
    write_kidney(data_dir / "test/kidney_6", draw((3, *SIZE), 6), first=7, kinds=("images",))


def draw(shape: tuple[int, int, int], seed: int) -> Slices:
    """Slices (H, W) uint16 and masks (H, W) bool of a synthetic kidney."""
    return list(phantom_slices(Phantom(shape, seed)))


def zoomed(depth: int, size: int, seed: int) -> Slices:
    """A piece of a kidney three times as large, as a finer scan shows it."""
    middle = slice(size, 2 * size)
    return [(grey[middle, middle], mask[middle, middle]) for grey, mask in draw((depth, 3 * size, 3 * size), seed)]


def with_gaps(slices: Slices, coverage: float) -> Slices:
    """The same with the labels of that part of all vessel pixels alone: those at the left."""
    columns = np.concatenate([np.nonzero(mask)[1] for _, mask in slices])
    last = np.quantile(columns, coverage)
    return [(grey, mask & (np.arange(mask.shape[1]) <= last)) for grey, mask in slices]


def write_kidney(kidney_dir: Path, slices: Slices, first: int = 0, kinds: Iterable[str] = ("images", "labels")) -> None:
    for kind in kinds:
        (kidney_dir / kind).mkdir(parents=True)
    for z, (grey, mask) in enumerate(slices, first):
        arrays = {"images": grey, "labels": mask.astype(np.uint8) * 255}
        for kind in kinds:
            path = kidney_dir / kind / f"{z:04d}.tif"
            assert cv2.imwrite(str(path), arrays[kind], [cv2.IMWRITE_TIFF_COMPRESSION, 1])


if __name__ == "__main__":
    main()
