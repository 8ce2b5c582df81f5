"""What neighbouring slices and the other axes give, on synthetic kidneys: labelled real slices have no neighbours."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config import Inference, Preprocessing, Training
from ..data.phantom import Phantom, write_phantom
from ..data.splits import labelled_slices
from ..data.volume import Volume, open_volume
from ..files import shipped_checkpoints
from ..inference.loading import load_predictors
from ..inference.predict import predict_masks
from ..models.checkpoint import read_card
from ..models.identity import what_was_seen
from ..progress import progress_bar
from ..rendering import markdown_table
from ..scoring.score import KidneyScorer
from ..training.train import fit

# Small, and alike but for the neighbours.
_TRAINING = Training(
    model_arguments={"widths": [8, 16, 32], "bottleneck": 64, "prior": 0.01},
    preprocessing=Preprocessing(region="windows", roi_size=512, mean=(0.5,), std=(0.25,)),
    train_volumes=("learned",),
    loss="dice_bce_surface",
    window_size=160,
    light=0.3,
    noise=0.1,
    ema_decay=0.98,
    epochs=1,
    epoch_slices=400,
    batch_size=2,
    learning_rate=3e-3,
    workers=0,
)
_UNFINISHED = ".unfinished"
_OFFSETS = {"2D": (0,), "2.5D": (-1, 0, 1)}
_INFERENCES = {
    "z": Inference(),
    "z, flips": Inference(tta="flips"),
    "z, y and x": Inference(axes="zyx"),
    "z, y and x, flips": Inference(axes="zyx", tta="flips"),
}
LEARNED = Phantom((40, 256, 224), seed=1)
TEST = Phantom((56, 288, 240), seed=2, background=18000, tissue=21500, wall=24500, lumen=19000, noise_sigma=700)
"""Unlike the one learned from: another tree, less contrast, other greys."""
SCALE = 63.08 / 50
"""As if its voxels were those of kidney_6 and the model's those of kidney_1_dense."""


def validate_axes(output_dir: Path) -> str:
    """Trains a 2D and a 2.5D model on one synthetic kidney, and uses them and the shipped ones on another.

    Args:
        output_dir: made if missing; gets both kidneys and a folder per model. A second call trains nothing anew.

    Returns:
        A paragraph and a table, as Markdown.
    """
    for name, phantom in (("learned", LEARNED), ("test", TEST)):
        if not (output_dir / "train" / name).is_dir():
            shutil.rmtree(output_dir / _UNFINISHED, ignore_errors=True)
            kidney_dir = write_phantom(output_dir / _UNFINISHED, name, phantom)
            (output_dir / "train").mkdir(exist_ok=True)
            kidney_dir.rename(output_dir / "train" / name)  # so that half a kidney is never learned from
            shutil.rmtree(output_dir / _UNFINISHED)
    models = {}
    for name, offsets in _OFFSETS.items():
        preprocessing = dataclasses.replace(_TRAINING.preprocessing, offsets=offsets)
        training = dataclasses.replace(_TRAINING, preprocessing=preprocessing)
        models[f"trained on phantoms, {name}"] = (fit(training, output_dir, output_dir / name),)
    volume = open_volume(output_dir / "train" / "test")
    rows = validate_models({"as shipped": tuple(shipped_checkpoints())}, volume, (1.0, SCALE))
    paths = (*shipped_checkpoints(), *(path for group in models.values() for path in group))
    seen = what_was_seen([read_card(path) for path in paths], labelled_slices([volume]), output_dir)
    return write_axes(rows + validate_models(models, volume, (1.0,)), seen.claim())


def validate_models(models: Mapping[str, tuple[Path, ...]], volume: Volume, scales: Sequence[float]) -> list[list[str]]:
    """Scores models on a labelled kidney along one axis and three, with and without flips.

    Args:
        models: checkpoints that answer together, by name.
        volume: every slice labelled.
        scales: of the kidney, see `Inference`.

    Returns:
        Rows of model, scale, axes and views, Surface Dice, Dice pooled.
    """
    rows = []
    combinations = [(name, scale, how) for name in models for scale in scales for how in _INFERENCES]
    for name, scale, how in progress_bar("comparing axes", len(combinations), combinations, unit="volume"):
        inference = dataclasses.replace(_INFERENCES[how], scale=scale)
        scorer = KidneyScorer()
        masks = predict_masks(volume, load_predictors(models[name], inference), inference)
        for z, (_, mask) in enumerate(masks):
            scorer.update(volume.label(z), mask)
        scores = scorer.compute()
        rows.append([name, f"{scale:.2f}", how, f"{scores.surface_dice:.3f}", f"{scores.dice_pooled:.3f}"])
    return rows


def write_axes(rows: list[list[str]], claim: str) -> str:
    """The rows of `validate_models` with what they are; `claim` says what the models have seen of the kidney."""
    shape = " x ".join(map(str, TEST.shape))
    return (
        f"Neighbours, axes and scale, on a synthetic kidney of {shape} voxels, {claim}, with less contrast and another "
        f"vessel tree than the one that the last two models learned from. Surface Dice is the competition's:\n\n"
        + markdown_table(["model", "scale", "axes and views", "Surface Dice", "Dice, pooled"], rows)
    )
