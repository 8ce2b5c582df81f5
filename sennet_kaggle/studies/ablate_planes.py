"""What windows across three axes, turned planes and neighbouring slices give, on synthetic kidneys that are dense."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..checks import check_distinct, check_seeds
from ..config import Inference, Preprocessing, Training
from ..data.phantom import Phantom, write_phantom
from ..data.volume import Volume, open_volume
from ..files import check_output_dir, make_dir, write_whole
from ..inference.loading import load_predictors
from ..inference.predict import predict_probabilities
from ..progress import progress_bar
from ..rendering import markdown_table
from ..scoring.surface_dice import SurfaceDice, dice_from_corner_counts
from ..training.train import fit
from .plan import changed

LEARNED = Phantom((144, 176, 160), seed=1)
TEST = Phantom((128, 160, 144), seed=2, background=18000, tissue=21500, wall=24500, lumen=19000, noise_sigma=700)
"""Unlike the one learned from: another tree, less contrast, other greys."""
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)
_TRAINING = Training(
    model_arguments={"widths": [8, 16, 32], "bottleneck": 64, "prior": 0.01},
    preprocessing=Preprocessing(region="windows", roi_size=512, mean=(0.5,), std=(0.25,), offsets=(0,)),
    train_volumes=("learned",),
    loss="dice_bce_surface",
    window_size=96,
    light=0.3,
    noise=0.1,
    ema_decay=0.98,
    epochs=1,
    epoch_slices=1200,
    batch_size=4,
    learning_rate=3e-3,
    workers=0,
)
_STACK: dict[str, Any] = {"offsets": (-1, 0, 1)}
MODELS: dict[str, dict[str, Any]] = {
    "2D, windows along z": {},
    "2D, windows along z, y and x": {"planes": "zyx"},
    "2.5D, windows along z": {"preprocessing": _STACK},
    "2.5D, windows along z, y and x": {"planes": "zyx", "preprocessing": _STACK},
}
"""By name, what of the training is changed."""
_AXES = {"z": Inference(), "zyx": Inference(axes="zyx")}
_RESULTS = "planes.csv"
_UNFINISHED = ".unfinished"


def compare_planes(
    output_dir: Path, seeds: Sequence[int] = (0, 1, 2), changes: Mapping[str, Any] | None = None
) -> Path:
    """Trains every model with every seed on one synthetic kidney, and scores each along z and zyx on another.

    Args:
        output_dir: made if missing; gets both kidneys, a folder per training, `planes.csv` and `planes.md`. A second
            call trains and scores nothing anew.
        seeds: at least one.
        changes: settings of every training that are replaced, such as `epoch_slices`.

    Returns:
        The path of `planes.md`.
    """
    check_seeds(seeds)
    check_distinct("seeds", seeds)
    check_output_dir(output_dir, (_RESULTS, "planes.md"))
    write_kidneys(make_dir(output_dir), {"learned": LEARNED, "test": TEST})
    volume = open_volume(output_dir / "train" / "test")
    results_path = output_dir / _RESULTS
    rows = pd.read_csv(results_path).to_dict("records") if results_path.is_file() else []
    done = {(row["model"], row["seed"]) for row in rows}
    for seed in seeds:
        for number, (name, model_changes) in enumerate(MODELS.items()):
            training = changed(changed(_TRAINING, model_changes, name), {**(changes or {}), "seed": seed}, "override")
            path = fit(training, output_dir, output_dir / f"{number}-{seed}", output_dir / "cache")
            if (name, seed) not in done:
                rows += [{"model": name, "seed": seed, **row} for row in score(path, volume)]
                write_whole(results_path, pd.DataFrame(rows).to_csv(index=False).encode())
    text = describe(pd.DataFrame(rows))
    write_whole(output_dir / "planes.md", text.encode())
    return output_dir / "planes.md"


def score(checkpoint_path: Path, volume: Volume) -> list[dict[str, Any]]:
    """Surface Dice of a checkpoint along z and along all axes, at each threshold."""
    rows = []
    for axes, inference in _AXES.items():
        predictors = load_predictors([checkpoint_path], inference)
        scorers = {threshold: SurfaceDice() for threshold in THRESHOLDS}
        slices = predict_probabilities(volume, predictors, inference)
        for z, (_, probability) in enumerate(progress_bar(f"along {axes}", len(volume), slices, leave=False)):
            label, values = volume.label(z), probability.numpy(force=True)
            for threshold, scorer in scorers.items():
                scorer.update(label, values > threshold)
        for threshold, scorer in scorers.items():
            rows.append({"axes": axes, "threshold": threshold, "surface_dice": dice_from_corner_counts(scorer.counts)})
    return rows


def describe(results: pd.DataFrame) -> str:
    """The table: mean over the seeds, with the least and the greatest, at threshold 0.5 and at each model's best."""
    rows = []
    for name in MODELS:
        cells = []
        for axes in _AXES:
            found = results[(results["model"] == name) & (results["axes"] == axes)]
            if found.empty:
                break
            by_threshold = found.pivot_table(index="threshold", columns="seed", values="surface_dice")
            best = by_threshold.mean(axis=1).idxmax()
            cells += [_cell(by_threshold.loc[0.5]), f"{_cell(by_threshold.loc[best])} at {best:g}"]
        rows += [[name, by_threshold.shape[1], *cells]] if len(cells) == 4 else []
    best = "at its best threshold"
    header = ["trained on", "seeds", "along z, at 0.5", best, "along zyx, at 0.5", best]
    return markdown_table(header, rows)


def _cell(values: pd.Series) -> str:
    return f"{values.mean():.3f} ({values.min():.3f}-{values.max():.3f})"


def write_kidneys(output_dir: Path, phantoms: Mapping[str, Phantom]) -> None:
    """Writes synthetic kidneys under `output_dir/train`, whole or not at all; those that are there stay."""
    for name, phantom in phantoms.items():
        if not (output_dir / "train" / name).is_dir():
            shutil.rmtree(output_dir / _UNFINISHED, ignore_errors=True)
            kidney_dir = write_phantom(output_dir / _UNFINISHED, name, phantom)
            (output_dir / "train").mkdir(exist_ok=True)
            kidney_dir.rename(output_dir / "train" / name)
            shutil.rmtree(output_dir / _UNFINISHED)
