"""What the other axes, flips and the scale give, on a synthetic kidney: labelled real slices have no neighbours."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..config import Inference
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

_INFERENCES = {
    "z": Inference(),
    "z, flips": Inference(tta="flips"),
    "z, y and x": Inference(axes="zyx"),
    "z, y and x, flips": Inference(axes="zyx", tta="flips"),
}
TEST = Phantom((56, 288, 240), seed=2, background=18000, tissue=21500, wall=24500, lumen=19000, noise_sigma=700)
"""Less contrast than the synthetic kidneys are made with, and a vessel tree of its own."""
SCALE = 63.08 / 50
"""As if its voxels were those of kidney_6 and the model's those of kidney_1_dense."""


def validate_axes() -> str:
    """Uses the shipped checkpoints on a synthetic kidney along one axis and three.

    Returns:
        A paragraph and a table, as Markdown.
    """
    paths = shipped_checkpoints()
    with tempfile.TemporaryDirectory() as folder:
        write_phantom(Path(folder), "test", TEST)
        volume = open_volume(Path(folder) / "train" / "test")
        seen = what_was_seen([read_card(path) for path in paths], labelled_slices([volume]), folder)
        return write_axes(validate_shipped(paths, volume, (1.0, SCALE)), seen.claim())


def validate_shipped(checkpoint_paths: Sequence[Path], volume: Volume, scales: Sequence[float]) -> list[list[str]]:
    """Scores models on a labelled kidney along one axis and three, with and without flips.

    Args:
        checkpoint_paths: they answer together.
        volume: every slice labelled.
        scales: of the kidney, see `Inference`.

    Returns:
        Rows of scale, axes and views, Surface Dice, Dice pooled.
    """
    rows = []
    combinations = [(scale, how) for scale in scales for how in _INFERENCES]
    for scale, how in progress_bar("comparing axes", len(combinations), combinations, unit="volume"):
        inference = dataclasses.replace(_INFERENCES[how], scale=scale)
        scorer = KidneyScorer()
        masks = predict_masks(volume, load_predictors(checkpoint_paths, inference), inference)
        for z, (_, mask) in enumerate(masks):
            scorer.update(volume.label(z), mask)
        scores = scorer.compute()
        rows.append([f"{scale:.2f}", how, f"{scores.surface_dice:.3f}", f"{scores.dice_pooled:.3f}"])
    return rows


def write_axes(rows: list[list[str]], claim: str) -> str:
    """The rows of `validate_shipped` with what they are; `claim` says what the models have seen of the kidney."""
    shape = " x ".join(map(str, TEST.shape))
    return (
        f"Axes, views and scale of the shipped checkpoint, without further scales, on a synthetic kidney of {shape} "
        f"voxels, {claim}, with less contrast than others have. Surface Dice is the competition's:\n\n"
        + markdown_table(["scale", "axes and views", "Surface Dice", "Dice, pooled"], rows)
    )
