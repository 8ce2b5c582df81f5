"""What each ingredient of the shipped model gives: one thing changed at a time, validated on unseen slices."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..checks import check_distinct, check_seeds
from ..config import Inference, Training
from ..data.splits import labelled_slices
from ..data.volume import Volume
from ..errors import InputError
from ..files import check_output_dir, replacing, shipped_checkpoints, write_whole
from ..inference.loading import load_predictors
from ..models.checkpoint import read_card
from ..models.identity import what_was_seen
from ..progress import progress_bar
from ..rendering import markdown_table
from ..submission.provenance import name_checkpoint
from ..training.train import fit
from .ablate_axes import validate_axes
from .compare import machine
from .experiments import EXPERIMENTS, FOLDS, SHIPPED
from .held_out import (
    CONTRAST,
    ENLARGED,
    LEARNED,
    MEASURES,
    ONE_SCALE,
    STRETCHED,
    TEST,
    Answers,
    choose_threshold,
    held_out_ids,
    predict_held_out,
    score_answers,
)
from .plan import changed, check_variants, open_test

_FOLD = 0
"""Held out from all trainings; benchmarks/cross_validation.py has the others, as shipped."""
AS_SHIPPED = "as shipped"
_MEASURE_OF = {STRETCHED: "dice_mean", **dict.fromkeys(ENLARGED, "dice_pooled")}
"""What is told of the slices as another kidney might have them."""


@dataclass(frozen=True)
class Variant:
    """The shipped model but for one thing."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of its training; where there are none, the models of the shipped settings answer."""
    inference: Inference = ONE_SCALE
    members: int = 1
    """How many models that differ in their seed answer together."""


# Grey values over 255 take up a tenth of 0..1, so light and noise vary that much less.
_EIGHT_BIT = {"preprocessing": {"intensity": "eight_bit", "mean": (0.35,), "std": (0.05,)}, "light": 0.05}
VARIANTS = {
    AS_SHIPPED: Variant(),
    "8 bit, no range per kidney": Variant({**_EIGHT_BIT, "noise": 0.015}),
    "without surface loss": Variant({"loss": "dice_bce"}),
    "without variation": Variant({"augment": False}),
    "with synthetic windows, a quarter": Variant({"synthetic": 0.25}),
    "used without flips": Variant(inference=replace(ONE_SCALE, tta="none")),
    "used with hysteresis": Variant(inference=replace(ONE_SCALE, hysteresis=0.7)),
    "two seeds averaged": Variant(members=2),
}
"""By the name in the table."""


class Run(NamedTuple):
    """One training of the ablation."""

    variant: str
    seed: int


def ablate(
    data_dir: Path | str, output_dir: Path | str, seeds: Sequence[int] = (0, 1, 2), overrides: Mapping[str, Any] = {}
) -> Path:
    """Trains the shipped experiment as it is and with one thing changed, or goes on where it was stopped.

    All learn from the same fold of the cross-validation. As it is, it is trained with each seed: that shows how much
    of a difference is chance. What is changed is trained with the first one. A variant's threshold is the middle of the
    plateau of the mean Dice on the slices of kidney_1_dense that its models have not seen; kidney_2 is scored with
    that, and chooses nothing.

    Args:
        data_dir: a folder in the competition's layout.
        output_dir: made if missing; gets `ablation.md`, `results.csv`, and a folder per run.
        seeds: at least two.
        overrides: settings changed in every run, such as fewer epochs.

    Returns:
        The path of `ablation.md`.

    Raises:
        InputError: too few seeds, an unknown setting, or as `fit`.
    """
    runs, output_dir = plan(seeds, overrides), Path(output_dir)
    check_output_dir(output_dir, ("ablation.md", "results.csv"))
    kidneys = {name: open_test(data_dir, name) for name in (LEARNED, TEST)}
    places = labelled_slices([kidneys[TEST]])
    variants = [(run.variant, training) for run, training in runs.items()]
    run_dirs = {run: output_dir / run.variant.replace(",", "").replace(" ", "-") / f"seed-{run.seed}" for run in runs}
    check_variants(variants, [*run_dirs.values()], data_dir, places, [held_out_ids(_FOLD)] * len(runs))
    check_changes(runs)
    shipped_checkpoints()  # `validate_axes` compares with them, after the trainings
    checkpoints = {}
    for number, (run, training) in enumerate(runs.items(), 1):
        print(f"{run.variant}, seed {run.seed}", flush=True)
        label = f"model {number} of {len(runs)}"
        checkpoints[run] = fit(training, data_dir, run_dirs[run], output_dir / "cache", label)
    names = progress_bar("validating", len(VARIANTS), VARIANTS, unit="variant")
    table = pd.DataFrame([row for name in names for row in validate(name, checkpoints, kidneys)])
    with replacing(output_dir / "results.csv") as temporary_path:
        table.to_csv(temporary_path, index=False, lineterminator="\n")
    axes = validate_axes()
    seen = what_was_seen([read_card(path) for path in checkpoints.values()], places, data_dir)
    text = write_up(table, axes, next(iter(runs.values())), seen.claim("no run"))
    named = "".join(f"- {run.variant}, seed {run.seed}: {name_checkpoint(path)}\n" for run, path in checkpoints.items())
    write_whole(output_dir / "ablation.md", f"{text}\nCheckpoints:\n\n{named}".encode())
    return output_dir / "ablation.md"


def plan(seeds: Sequence[int], overrides: Mapping[str, Any]) -> dict[Run, Training]:
    """The trainings to make, each with its settings.

    Raises:
        InputError: as `ablate`.
    """
    if len(seeds) < 2:
        raise InputError(f"seeds must be at least two, to tell a gain from chance, got {list(seeds)}")
    check_seeds(seeds)
    check_distinct("seeds", tuple(seeds))
    fixed = sorted({"seed", "held_out_slices", "evaluate_every"} & overrides.keys())
    if fixed:
        raise InputError(f"override has {fixed[0]}, which the ablation sets itself: leave it out")
    keys = [Run(AS_SHIPPED, seed) for seed in seeds]
    keys += [Run(name, seeds[0]) for name, variant in VARIANTS.items() if variant.changes]
    return {run: _training_of(run, overrides) for run in keys}


def check_changes(runs: Mapping[Run, Training]) -> None:
    """Raises InputError where an override takes back what a variant changes, which its row would not say."""
    for run, training in runs.items():
        as_shipped = runs[Run(AS_SHIPPED, run.seed)]
        if run.variant != AS_SHIPPED and training == as_shipped:
            changes = ", ".join(VARIANTS[run.variant].changes)
            raise InputError(f"override makes {run.variant!r} the same as what is shipped: leave out {changes}")


def validate(name: str, checkpoints: Mapping[Run, Path], kidneys: Mapping[str, Volume]) -> list[dict[str, Any]]:
    """Scores a variant on slices that its models have not learned from.

    Args:
        name: a key of VARIANTS.
        checkpoints: of all runs.
        kidneys: LEARNED and TEST, opened.

    Returns:
        A row per answer (a model, or several together) and kidney: variant, seeds, kidney, threshold and the scores.
    """
    variant = VARIANTS[name]
    runs = [run for run in checkpoints if run.variant == (name if variant.changes else AS_SHIPPED)]
    groups = {
        " and ".join(str(run.seed) for run in group): load_predictors(
            [checkpoints[run] for run in group], variant.inference
        )
        for group in combinations(runs, variant.members)
    }

    def answers(seeds: str, kidney: str) -> Answers:
        return predict_held_out(groups[seeds], kidneys, kidney, _FOLD, variant.inference)

    hysteresis = variant.inference.hysteresis
    threshold = choose_threshold((each for seeds in groups for each in answers(seeds, LEARNED)), hysteresis)
    return [
        {"variant": name, "seeds": seeds, "kidney": kidney, "threshold": threshold}
        | score_answers(answers(seeds, kidney), threshold, hysteresis)
        for seeds in groups
        for kidney in (LEARNED, *_MEASURE_OF, TEST)
    ]


def write_up(table: pd.DataFrame, axes: str, base: Training, claim: str) -> str:
    """The ablation as Markdown; `claim` says what the models have seen of the test kidney."""
    header = ["", "seeds", "threshold", *MEASURES.values()]
    header += [f"{kidney.partition(', ')[2]}: {MEASURES[_MEASURE_OF[kidney]]}" for kidney in _MEASURE_OF]
    header += [f"{TEST}: {title}" for title in MEASURES.values()]
    rows = []
    for name, group in table.groupby("variant", sort=False):
        by_kidney = dict(list(group.groupby("kidney")))
        cells = [_mean_and_spread(by_kidney[LEARNED][measure]) for measure in MEASURES]
        cells += [_mean_and_spread(by_kidney[kidney][measure]) for kidney, measure in _MEASURE_OF.items()]
        cells += [_mean_and_spread(by_kidney[TEST][measure]) for measure in MEASURES]
        rows.append([name, ", ".join(by_kidney[TEST]["seeds"]), f"{group['threshold'].iloc[0]:g}", *cells])
    command = shlex.join(["python", "-m", "sennet_kaggle", *sys.argv[1:]])
    return (
        f"Fold {_FOLD} of the cross-validation: learned from {len(sum(FOLDS, ())) - len(FOLDS[_FOLD])} slices of "
        f"{LEARNED}, validated on {', '.join(FOLDS[_FOLD])}, which chose the threshold, and on the slices of {TEST}, "
        f"{claim}; they chose nothing. {base.epochs} epochs of {base.epoch_slices} windows; mean ± standard "
        "deviation where there are several seeds. Stretched: "
        f"the same held-out slices with {CONTRAST:g} times the contrast, as another kidney might have; enlarged: "
        "resized by that factor, as if the vessels were wider. How the models "
        f"were run, where the row does not say otherwise: {ONE_SCALE.describe('as in the table')}.\n\n"
        + markdown_table(header, rows)
        + f"\n{axes}\nMachine: {machine()}. Command: `{command}`\n"
    )


def _training_of(run: Run, overrides: Mapping[str, Any]) -> Training:
    training = changed(changed(EXPERIMENTS[SHIPPED], VARIANTS[run.variant].changes, run.variant), overrides, "*")
    return replace(
        training, seed=run.seed, held_out_slices=held_out_ids(_FOLD), evaluate_every=training.epochs, workers=0
    )


def _mean_and_spread(values: pd.Series) -> str:
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")
