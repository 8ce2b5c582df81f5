"""The shipped experiment on slices that it has not seen: cross-validation on kidney_1_dense, also enlarged.

    python benchmarks/cross_validation.py --data-dir DATA --output-dir RUNS [--output docs/model/cross_validation.md]

Trains what is missing in RUNS (`fold-0` to `fold-2`, `train`'s folders; some ten minutes of one core each), and scores
each fold's held-out slices with it, at one scale and at more. kidney_2 chooses nothing.

`--fold 0 --synthetic 0.25` does so for one fold, trained with synthetic windows among the others.
"""

import argparse
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.config import DEFAULT_INFERENCE  # noqa: E402
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--own-size", action="store_true", help="leave out the enlarged slices, which take most of the time"
    )
    parser.add_argument("--fold", type=int, choices=range(len(FOLDS)), help="one fold instead of all")
    parser.add_argument("--synthetic", type=float, default=0.0, help="part of the windows that are synthetic")
    arguments = parser.parse_args()
    experiment = replace(EXPERIMENTS[SHIPPED], synthetic=arguments.synthetic)
    folds = range(len(FOLDS)) if arguments.fold is None else (arguments.fold,)
    checkpoints = []
    for fold in folds:
        run_dir = arguments.output_dir / f"fold-{fold}"
        training = replace(experiment, held_out_slices=held_out_ids(fold), workers=0)
        path = run_dir / "checkpoint.safetensors"
        checkpoints.append(path if path.is_file() else fit(training, arguments.data_dir, run_dir))
    kidneys = {name: open_test(arguments.data_dir, name) for name in (LEARNED, TEST)}
    judged = (LEARNED,) if arguments.own_size else (LEARNED, *ENLARGED)
    rows = []
    for title, extra_scales in SCALES.items():
        inference = replace(DEFAULT_INFERENCE, extra_scales=extra_scales)
        predictors = [load_predictors([path], inference) for path in checkpoints]
        hysteresis = inference.hysteresis
        answers = {
            kidney: [
                answer
                for fold, members in zip(folds, predictors, strict=True)
                for answer in predict_held_out(members, kidneys, kidney, fold, inference)
            ]
            for kidney in progress_bar(f"scales {title}", len(judged) + 1, (*judged, TEST), unit="kidney")
        }
        threshold = choose_threshold(chain.from_iterable(answers[kidney] for kidney in judged), hysteresis)
        for kidney, all_slices in answers.items():
            scores = score_answers(iter(all_slices), threshold, hysteresis)
            rows.append([title, kidney, f"{threshold:g}", *(f"{scores[measure]:.3f}" for measure in MEASURES)])
            print(rows[-1], flush=True)
    how = f"the middle of the plateau of the mean Dice of {' and '.join(judged)} together, as in the table"
    text = "# Cross-validation of the shipped experiment\n\n"
    text += markdown_table(["scales", "slices", "threshold", *MEASURES.values()], rows)
    text += (
        f"\nEach slice of {LEARNED} by the model of the fold that held it out: {experiment.epochs} epochs of "
        f"{experiment.epoch_slices} windows, seed {experiment.seed}; {TEST} by all {len(folds)} models, each counted. "
        f"{DEFAULT_INFERENCE.describe(how)}, but for the scales. "
        f"Machine: {machine()}. Command: `python benchmarks/cross_validation.py --data-dir DATA --output-dir RUNS"
        f"{' --own-size' * arguments.own_size}{f' --fold {folds[0]}' * (len(folds) == 1)}"
        f"{f' --synthetic {arguments.synthetic:g}' * (arguments.synthetic > 0)}`\n"
    )
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
