"""An experiment on slices that it has not seen: cross-validation on kidney_1_dense, also enlarged.

    python benchmarks/cross_validation.py --data-dir DATA --output-dir RUNS [--output docs/model/cross_validation.md]

Trains what is missing in RUNS (`fold-0` to `fold-2`, `train`'s folders; some twenty minutes of one core each), and
scores each fold's held-out slices with it, at one scale and at more. kidney_2 chooses nothing. The experiment is the
shipped one, or another that --experiment names.
"""

import argparse
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.config import DEFAULT_INFERENCE, Inference, Training  # noqa: E402
from sennet_kaggle.inference.loading import load_predictors  # noqa: E402
from sennet_kaggle.progress import progress_bar  # noqa: E402
from sennet_kaggle.rendering import markdown_table  # noqa: E402
from sennet_kaggle.studies.compare import machine  # noqa: E402
from sennet_kaggle.studies.experiments import EXPERIMENTS, FOLDS, SHIPPED  # noqa: E402
from sennet_kaggle.studies.held_out import (  # noqa: E402
    ENLARGED,
    LEARNED,
    MEASURES,
    TEST,
    choose_threshold,
    held_out_ids,
    predict_held_out,
    score_answers,
)
from sennet_kaggle.studies.plan import open_test  # noqa: E402
from sennet_kaggle.training.train import fit  # noqa: E402

SCALES = {"1": (), "1, 2 and 0.5": (2.0, 0.5)}
TRIED = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
HYSTERESIS = DEFAULT_INFERENCE.hysteresis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--experiment", choices=sorted(EXPERIMENTS), default=SHIPPED, metavar="NAME")
    parser.add_argument("--weights-path", type=Path, help="the published weights that the experiment starts from")
    parser.add_argument("--fold", type=int, choices=range(len(FOLDS)), help="train this fold and do nothing else")
    parser.add_argument(
        "--own-size", action="store_true", help="leave out the enlarged slices, which take most of the time"
    )
    arguments = parser.parse_args()
    experiment, is_shipped = EXPERIMENTS[arguments.experiment], arguments.experiment == SHIPPED
    if arguments.weights_path:
        experiment = replace(experiment, weights_path=str(arguments.weights_path))
    if arguments.fold is not None:
        train_fold(experiment, arguments.fold, arguments.data_dir, arguments.output_dir)
        return
    checkpoints = {
        fold: train_fold(experiment, fold, arguments.data_dir, arguments.output_dir) for fold in range(len(FOLDS))
    }
    kidneys = {name: open_test(arguments.data_dir, name) for name in (LEARNED, TEST)}
    judged = (LEARNED,) if arguments.own_size else (LEARNED, *ENLARGED)
    rows, trials, plateaus = [], [], []
    for title, extra_scales in SCALES.items():
        inference = replace(DEFAULT_INFERENCE, extra_scales=extra_scales)
        answers = answer(checkpoints, kidneys, (*judged, TEST), inference, f"scales {title}")
        plateaus.append(choose_threshold(chain.from_iterable(answers[kidney] for kidney in judged), HYSTERESIS))
        as_shipped = is_shipped and extra_scales == DEFAULT_INFERENCE.extra_scales
        threshold = experiment.threshold if as_shipped else plateaus[-1]
        for kidney, of_kidney in answers.items():
            scores = score_answers(iter(of_kidney), threshold, HYSTERESIS)
            rows.append([title, kidney, f"{threshold:g}", *(f"{scores[measure]:.3f}" for measure in MEASURES)])
            trials.append([title, kidney, *(mean_and_pooled(of_kidney, each) for each in TRIED)])
            print(rows[-1], trials[-1], flush=True)
    rule = f"the middle of the plateau of the mean Dice of {', '.join(judged)}" + " together" * (len(judged) > 1)
    if is_shipped:
        rule = f"the experiment's own for three scales; for one, {rule} (which is {plateaus[-1]:g} for three)"
    options = "" if is_shipped else f" --experiment {arguments.experiment}"
    options += " --weights-path WEIGHTS" * bool(arguments.weights_path) + " --own-size" * arguments.own_size
    text = f"""# Cross-validation of {"the shipped experiment" if is_shipped else arguments.experiment}

{markdown_table(["scales", "slices", "threshold", *MEASURES.values()], rows)}
Each slice of {LEARNED} by the model of the fold that held it out: {experiment.epochs} epochs of \
{experiment.epoch_slices} windows, seed {experiment.seed}; {TEST} by all {len(FOLDS)} models, each counted. \
Thresholds: {rule}. \
{DEFAULT_INFERENCE.describe("as in the table")}, but for the scales. Machine: {machine()}. Command: \
`python benchmarks/cross_validation.py --data-dir DATA --output-dir RUNS{options}`

## Other thresholds

Dice, mean / pooled.

{markdown_table(["scales", "slices", *(f"{threshold:g}" for threshold in TRIED)], trials)}"""
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


def train_fold(experiment: Training, fold: int, data_dir: Path, output_dir: Path) -> Path:
    """The checkpoint of a fold, trained unless it is there."""
    run_dir = output_dir / f"fold-{fold}"
    path = run_dir / "checkpoint.safetensors"
    training = replace(experiment, held_out_slices=held_out_ids(fold), workers=0)
    return path if path.is_file() else fit(training, data_dir, run_dir)


def answer(checkpoints, kidneys, names, inference: Inference, label: str) -> dict[str, list]:
    """What the folds' models say of the slices of each kidney that they have not seen; see `Answers`."""
    predictors = {fold: load_predictors([path], inference) for fold, path in checkpoints.items()}
    return {
        name: [
            of_slice
            for fold, members in predictors.items()
            for of_slice in predict_held_out(members, kidneys, name, fold, inference)
        ]
        for name in progress_bar(label, len(names), names, unit="kidney")
    }


def mean_and_pooled(answers, threshold: float) -> str:
    scores = score_answers(iter(answers), threshold, HYSTERESIS)
    return f"{scores['dice_mean']:.3f} / {scores['dice_pooled']:.3f}"


if __name__ == "__main__":
    main()
