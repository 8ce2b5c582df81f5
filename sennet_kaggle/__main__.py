"""The command line: `python -m sennet_kaggle COMMAND --help`."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import __version__
from .cli.console import BAD_INPUT, missing_package, run_command, show
from .cli.hints import hints
from .config import DEFAULT_INFERENCE, EXPERIMENTS, Inference, Preprocessing, Training

try:
    import tyro
except ModuleNotFoundError as error:
    print(f"error: {missing_package(error) or error}", file=sys.stderr)
    sys.exit(BAD_INPUT)


# Heavy libraries are imported by the commands that need them, so that --help answers at once.
class Commands(tyro.extras.SubcommandApp):
    """The command line; `functions` has what is behind each command, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: dict[str, Callable] = {}

    def command(self, function: Callable) -> Callable:  # type: ignore[override]
        self.functions[function.__name__.replace("_", "-")] = function
        return super().command(function)


app = Commands()
registry = tyro.constructors.ConstructorRegistry()


@dataclass(frozen=True)
class TrainingRun:
    """One training run."""

    data_dir: Path
    """A folder in the competition's layout: train/<kidney>/{images,labels}/*.tif."""
    output_dir: Path
    """Gets checkpoint.safetensors, metrics.csv, curves and pictures; a stopped run in it goes on. Made if missing."""
    training: Training
    cache_dir: Path | None = None
    """Where resized slices are kept between epochs and runs; OUTPUT_DIR/cache when not given."""


NamedRun = tyro.extras.subcommand_type_from_defaults(
    {name: TrainingRun(tyro.MISSING, tyro.MISSING, training) for name, training in EXPERIMENTS.items()}
)


@app.command
def predict(
    data_dir: Path,
    output: Path,
    checkpoint: tuple[Path, ...] = (),
    volume: tuple[str, ...] = (),
    save_probability: Path | None = None,
    inference: Inference = DEFAULT_INFERENCE,
) -> None:
    """Segment every slice of DATA_DIR/test/*/images and write a submission.

    Several GPUs or processes: torchrun --nproc-per-node N -m sennet_kaggle predict …

    Args:
        data_dir: A folder in the competition's layout.
        output: The csv to write; beside it goes a .json that says what made it.
        checkpoint: Checkpoints to average; the shipped ones when none is named.
        volume: Kidneys of train/ or test/ to segment instead of all of test/.
        save_probability: A folder to keep the probabilities in, 8 bits a pixel, for sweep.
        inference: How the model is run.
    """
    from .data.volume import find_volumes
    from .distributed import join_processes
    from .files import check_output, making_dir, shipped_checkpoints
    from .inference.predict import load_predictors, predict_rows
    from .inference.probability import check_room, note_learned
    from .submission.provenance import stamp_images, warn_of_learned_volumes, write_origin
    from .submission.submission import write_submission

    volumes, checkpoints = find_volumes(data_dir, volume), checkpoint or shipped_checkpoints()
    check_output(output, (*checkpoints, *(path for volume in volumes for path in volume.paths)))
    if save_probability is not None:
        check_room(save_probability, volumes)
    predictors = load_predictors(checkpoints, inference)
    keeping = nullcontext() if save_probability is None else making_dir(save_probability)
    with keeping, join_processes() as share:
        learned = warn_of_learned_volumes(checkpoints, volumes, data_dir) if share.rank == 0 else {}
        rows = predict_rows(volumes, predictors, inference, save_probability, share)
        rows = share.gather_rows(rows, (slice_id for volume in volumes for slice_id in volume.slice_ids))
        if rows is not None:
            print(f"{output}: {write_submission(output, rows)} rows")
            stamps = {volume.name: stamp_images(volume) for volume in volumes}
            write_origin(output, "predict", checkpoints, inference, stamps)
            if save_probability is not None:
                note_learned(save_probability, volumes, learned)


@app.command
def validate(submission: Path, data_dir: Path) -> None:
    """Check that Kaggle would accept a submission for the slices of DATA_DIR/test.

    The file must be a csv in UTF-8 with exactly the columns id,rle, and have each test slice once; the order of the
    rows does not matter. It is read as pandas.read_csv reads it.

    Args:
        submission: The csv to check.
        data_dir: A folder in the competition's layout.
    """
    from .data.volume import open_volumes
    from .submission.submission import refuse, validate_submission

    volumes = open_volumes(data_dir, "test")
    refuse(submission, validate_submission(submission, volumes))
    print(f"{submission}: valid, {sum(map(len, volumes))} rows")


@app.command
def score(
    submission: Path,
    labels: Path,
    size: tuple[str, ...] = (),
    data_dir: Path | None = None,
    labelled_only: bool = False,
    per_slice: bool = False,
    cl_dice: bool = False,
    json: bool = False,
) -> None:
    """Score a submission with the competition's metric and Dice, per kidney and overall.

    All scores go from 0 to 1 (equal; also where label and prediction are both empty), and one empty mask scores 0.

    surface_dice: the competition's metric, Surface Dice at tolerance 0 in 3D. Slices that follow each other without a
    gap are stacked as there. Where there are gaps, only the layers between neighbouring slices count, and without
    neighbours there is none ("-"). Lines below the table say where it cannot be compared with the leaderboard.

    surface_dice_2d_1px: mean over the slices of each one's Surface Dice in 2D; contours up to a pixel apart agree.

    dice_pooled: Dice over the pixels of all slices; a large vessel outweighs all others.

    dice_mean: mean over the slices of each one's Dice; a slice that is empty in both counts as 1.

    dice_without_largest: dice_pooled without the pixels of the label's largest object in any one slice.

    slices, runs: how many slices were scored, and how many stretches of consecutive slices they form.

    cl_dice: mean over the slices of each one's clDice: are the centre lines found, of thick and thin vessels alike?

    The last row is the mean over kidneys.

    Args:
        submission: The csv to score.
        labels: A folder with <kidney>/labels/*.tif (or train/ above them), or another submission taken for the truth.
            A kidney NAME_sparse without labels is scored by those of NAME_dense, and the other way round. Kidneys of
            which SUBMISSION has no row are left out.
        size: Size of the masks where LABELS is a csv and neither csv has the columns height and width: for each
            kidney as in kidney_5=1303x912 (rows x columns); for a single kidney 1303x912 does.
        data_dir: A folder in the competition's layout whose images tell the size of the masks instead.
        labelled_only: Leave out slices that have no label; otherwise they are an error.
        per_slice: Also print a row per slice, with the pixels of label, prediction and both.
        cl_dice: Also compute clDice, which takes several times as long as all the rest.
        json: Print JSON instead of a table.
    """
    from .rendering import format_table
    from .scoring.score import format_scores, scores_to_json
    from .scoring.score_csv import score_submission
    from .submission.provenance import warn_if_learned

    scored = score_submission(submission, labels, size, cl_dice, labelled_only, data_dir)
    if json:
        print(scores_to_json(scored.kidneys, scored.slices if per_slice else None))
    else:
        print(f"{format_table(scored.slices)}\n" if per_slice else "", format_scores(scored.kidneys), sep="")
    warn_if_learned(submission, labels)


@app.command
def sweep(
    probability: Path, labels: Path, output_dir: Path, metric: str = "surface_dice", cl_dice: bool = False
) -> None:
    """Score kept probabilities at every threshold in one pass, and find the plateau.

    Slices without a label are left out; score --help says what each metric is.

    Args:
        probability: The folder that predict --save-probability made.
        labels: As for score.
        output_dir: Gets sweep.csv and sweep.png.
        metric: Whose plateau to find: surface_dice (which needs neighbouring slices), surface_dice_2d_1px, dice_pooled,
            dice_mean, dice_without_largest or cl_dice.
        cl_dice: Also compute clDice, which takes several times as long as all the rest.
    """
    from .scoring.sweep import write_sweep

    print(write_sweep(probability, labels, output_dir, metric, cl_dice))


@app.command
def report(
    run_dir: Path,
    data_dir: Path,
    volume: tuple[str, ...] = (),
    output: Path | None = None,
    title: str | None = None,
) -> None:
    """Write one self-contained HTML page of a run: slices with their errors, Dice along the organ, curves, 3D.

    Args:
        run_dir: What predict, dry-run, train or sweep left: submission.csv or checkpoint.safetensors (which then
            segments the kidneys, anew when it has changed), and, where they are there, metrics.csv and sweep.csv.
        data_dir: A folder in the competition's layout with the run's kidneys.
        volume: Kidneys to show; those of the submission or the checkpoint's training when not given.
        output: The page; RUN_DIR/report.html when not given.
        title: What stands at its top; the run's folder when not given.
    """
    from .files import check_output
    from .reports.page import write_page
    from .reports.run import RUN_FILES, open_run

    output = output or run_dir / "report.html"
    check_output(output, (run_dir / name for name in RUN_FILES))
    run = open_run(run_dir, data_dir, volume)
    name = title or f"sennet-kaggle: {run_dir.resolve().name}"
    write_page(
        output, title=name, volumes=run.volumes, rles=run.rles, history=run.history, sweep=run.sweep, notes=run.notes
    )
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


@app.command
def train(run: NamedRun) -> None:  # type: ignore[valid-type]
    """Train a named experiment, or go on with a stopped one; every setting can be overridden.

    Several processes: torchrun --nproc-per-node N -m sennet_kaggle train NAME …

    Args:
        run: The experiment.
    """
    from .training.train import fit

    print(f"best checkpoint: {fit(run.training, run.data_dir, run.output_dir, run.cache_dir)}")


@app.command
def experiments() -> None:
    """List the named experiments with their settings."""
    from .studies.experiments import format_experiments

    print(format_experiments())


@app.command
def compare(
    data_dir: Path,
    output_dir: Path,
    experiment: tuple[str, ...] = (),
    test_volume: str = "kidney_2",
    seed: tuple[int, ...] = (0,),
    override: dict[str, Any] = {},  # noqa: B006 (only read)
    weights_path: Path | None = None,
) -> None:
    """Train the report's experiments, judge each on a kidney it has not seen, and write the comparison.

    Args:
        data_dir: A folder in the competition's layout.
        output_dir: Gets comparison.md, results.csv, curves.png, predictions.png and a folder per run; stopped runs go
            on.
        experiment: Which to compare; all of the report's but sam-zero-shot when not given.
        test_volume: The kidney of train/ to judge on.
        seed: Each experiment is trained once with each.
        override: Changed settings by pattern of names, as JSON, such as '{"segformer-*": {"epochs": 6}}'.
        weights_path: Weights of Segment Anything, for sam-zero-shot.
    """
    from .studies.compare import REPORT_EXPERIMENTS
    from .studies.compare import compare as run_comparison

    path = run_comparison(
        data_dir,
        output_dir,
        experiments=experiment or REPORT_EXPERIMENTS,
        test_volume=test_volume,
        seeds=seed,
        overrides=override,
        sam_weights_path=weights_path,
    )
    print(f"\n{path.read_text(encoding='utf-8')}\n{path}")


@app.command
def ablate(
    data_dir: Path,
    output_dir: Path,
    seed: tuple[int, ...] = (0, 1, 2),
    override: dict[str, Any] = {},  # noqa: B006 (only read)
) -> None:
    """Measure what each ingredient of the shipped model gives, on held-out slices and on a kidney it has not seen.

    Args:
        data_dir: A folder in the competition's layout, with kidney_1_dense and kidney_2.
        output_dir: Gets ablation.md, results.csv and a folder per run; stopped runs go on.
        seed: At least two; the shipped settings are trained with each.
        override: Settings changed in every run, as JSON, such as '{"epochs": 6}'.
    """
    from .studies.ablate import ablate as run_ablation

    path = run_ablation(data_dir, output_dir, seed, override)
    print(f"\n{path.read_text(encoding='utf-8')}\n{path}")


@app.command
def card(
    data_dir: Path,
    output_dir: Path,
    checkpoint: tuple[Path, ...] = (),
    volume: str = "kidney_2",
    record_images: bool = False,
) -> None:
    """Write a page about checkpoints: what they learned from, scores on a kidney they have not seen, time, size.

    Args:
        data_dir: A folder in the competition's layout.
        output_dir: Gets checkpoint.md and checkpoint.png.
        checkpoint: Checkpoints that are averaged; the shipped ones when none is named.
        volume: A labelled kidney of train/ that none of them has learned from.
        record_images: First add to checkpoints of earlier versions what tells the images that they learned from in
            any other copy; these are looked for in DATA_DIR by their names.
    """
    from .files import shipped_checkpoints
    from .models.identity import record_images as add_digests
    from .reports.card import write_card

    paths = checkpoint or shipped_checkpoints()
    if record_images:
        for path in paths:
            add_digests(path, data_dir)
    path = write_card(paths, data_dir / "train" / volume, output_dir)
    print(f"{path.read_text(encoding='utf-8')}\n{path}")


@app.command
def sam_zero_shot(
    data_dir: Path,
    output_dir: Path,
    weights_path: Path | None = None,
    volume: tuple[str, ...] = ("kidney_2",),
    slices: tuple[str, ...] = (),
    model_arguments: dict[str, Any] = {},  # noqa: B006 (only read)
    device: str = "auto",
) -> None:
    """Let Segment Anything propose masks without any training, and see how vessels fare.

    Args:
        data_dir: A folder in the competition's layout.
        output_dir: Gets zero-shot.csv and a picture per slice.
        weights_path: Segment Anything's weights, such as sam_vit_b_01ec64.pth.
        volume: Kidneys of train/; their labelled slices are judged.
        slices: Slice ids to judge; all labelled ones when not given.
        model_arguments: Further arguments of the model, as JSON, such as '{"variant": "vit_h"}'.
        device: auto (a GPU where there is one), cpu, cuda or cuda:N.
    """
    from .rendering import format_table
    from .studies.zero_shot import run_zero_shot

    table = run_zero_shot(
        data_dir,
        output_dir,
        weights_path,
        volume_names=volume,
        slice_ids=slices,
        model_arguments=model_arguments,
        device=device,
    )
    print(format_table(table))


@app.command
def stats(data_dir: Path, volume: tuple[str, ...] = (), preprocessing: Preprocessing = Preprocessing()) -> None:  # noqa: B008
    """Measure a data set: grey values, mean and standard deviation, how much of it is vessel.

    Args:
        data_dir: A folder in the competition's layout.
        volume: Kidneys of train/; all when not given.
        preprocessing: What the model's input is; mean and std are measured before they are applied.
    """
    from .data.volume import open_volumes
    from .reports.stats import format_stats, measure_stats

    preprocessing.check()
    print(format_stats(measure_stats(open_volumes(data_dir, "train", volume), preprocessing)))


@app.command
def dry_run(
    data_dir: Path | None = None,
    volume: tuple[str, ...] = (),
    output_dir: Path = Path("dry-run"),
    mount_layout: Literal["new", "old"] = "new",
    checkpoint: tuple[Path, ...] = (),
    on_kaggle: bool = False,
) -> None:
    """Rehearse the whole submission: build the notebook, run it without network, validate, score, draw.

    Args:
        data_dir: A folder in the competition's layout; a synthetic kidney is made when not given.
        volume: Kidneys of it to use as the test set; those of its test/ folder when not given.
        output_dir: Gets submission.csv, scores.csv, slices.png and the executed notebook.
        mount_layout: Which of Kaggle's two layouts of input folders to rehearse.
        checkpoint: Checkpoints to attach; the shipped ones when none is named.
        on_kaggle: Run as on Kaggle: faults are survived, and passes are dropped when the time gets short.
    """
    from .files import shipped_checkpoints
    from .kernel.dry_run import check_rehearsal, open_rehearsal_volumes, rehearse
    from .rendering import format_table
    from .submission.provenance import warn_of_learned_volumes

    check_rehearsal(output_dir)
    volumes = open_rehearsal_volumes(data_dir, volume, output_dir / "phantom")
    submission_path, table, picture_path = rehearse(volumes, output_dir, mount_layout, None, checkpoint, on_kaggle)
    print(format_table(table) if table is not None else "no labels, so no score")
    warn_of_learned_volumes(checkpoint or shipped_checkpoints(), volumes, data_dir)
    print(f"submission: {submission_path}\npicture:    {picture_path}")


@app.command
def phantom(
    directory: tyro.conf.Positional[Path],
    name: str = "phantom_1",
    shape: tuple[int, int, int] = (64, 512, 512),
    seed: int = 0,
    split: Literal["train", "test"] = "train",
    labels: bool = True,
) -> None:
    """Write a synthetic kidney in the competition's layout.

    Args:
        directory: Gets <split>/<name>/{images,labels}/*.tif.
        name: The kidney's name.
        shape: Slices, rows, columns.
        seed: The same seed gives the same bytes.
        split: train or test.
        labels: Write the labels as well.
    """
    from .data.phantom import Phantom, write_phantom

    print(write_phantom(directory, name, Phantom(shape, seed), split=split, with_labels=labels, progress=True))


@app.command
def pack(
    model: str,
    weights_path: Path,
    output: Path,
    model_arguments: dict[str, Any] = {},  # noqa: B006 (only read)
    preprocessing: Preprocessing = Preprocessing(),  # noqa: B008
    threshold: float | None = None,
) -> None:
    """Make a checkpoint of foreign weights, such as Segment Anything's, so that predict and the kernel can use them.

    Args:
        model: A name that create_model knows.
        weights_path: The weights of a whole model as their makers publish them, or a checkpoint of this package,
            whose settings are kept where none are given here.
        output: The .safetensors file to write.
        model_arguments: Further arguments of the model, as JSON.
        preprocessing: What the model's input is.
        threshold: Probability above which a pixel is vessel; 0.5 when not given.
    """
    from .training.pack import pack as pack_weights

    pack_weights(model, weights_path, output, model_arguments, preprocessing, threshold)
    print(output)


@registry.primitive_rule
def _json_object(type_info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Lets a dict be given as JSON."""
    if type_info.type_origin is not dict:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda texts: _parse_object(texts[0]),
        is_instance=lambda instance: isinstance(instance, dict),
        str_from_instance=lambda instance: [json.dumps(instance)],
    )


def _parse_object(text: str) -> dict[str, Any]:
    parsed = json.loads(text)
    if not isinstance(parsed, dict):
        raise ValueError("expected a JSON object")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; bad input is one line on standard error and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    installed = Path(sys.argv[0]).stem == "sennet-kaggle"

    def run() -> None:
        if arguments == ["--version"]:
            print(f"sennet-kaggle {__version__}")
            return
        try:
            with registry:
                app.cli(
                    args=arguments,
                    prog="sennet-kaggle" if installed else "python -m sennet_kaggle",
                    config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
                )
        except SystemExit as error:
            for hint in hints(arguments, app.functions, EXPERIMENTS) if error.code == BAD_INPUT else ():
                show(hint)
            raise

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
