"""Commands on submissions: make one, check it, score it, show it, rehearse it on a synthetic kidney."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config import DEFAULT_INFERENCE, Inference

if TYPE_CHECKING:
    from ..data.volume import Volume

# Heavy libraries are imported by the commands that need them, so that --help answers at once.


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
    from ..data.volume import find_volumes
    from ..distributed import join_processes
    from ..files import check_output, making_dir, shipped_checkpoints
    from ..inference.loading import load_predictors
    from ..inference.predict import predict_rows
    from ..inference.probability import check_room, note_learned
    from ..models.voxel_size import settle_scale
    from ..submission.provenance import Stopwatch, stamp_images, warn_of_learned_volumes, write_origin
    from ..submission.submission import write_submission

    watch = Stopwatch()
    volumes, checkpoints = find_volumes(data_dir, volume), checkpoint or shipped_checkpoints()
    check_output(output, (*checkpoints, *(path for volume in volumes for path in volume.paths)))
    if save_probability is not None:
        check_room(save_probability, volumes)
    inference.check()
    inference = settle_scale(inference, [each.name for each in volumes], checkpoints)
    with watch.stage("load"):
        predictors = load_predictors(checkpoints, inference)
    keeping = nullcontext() if save_probability is None else making_dir(save_probability)
    with keeping, join_processes() as shard:
        learned = warn_of_learned_volumes(checkpoints, volumes, data_dir) if shard.rank == 0 else {}
        with watch.stage("segment"):
            rows = predict_rows(volumes, predictors, inference, save_probability, shard)
            gathered = shard.gather_rows(rows, (slice_id for volume in volumes for slice_id in volume.slice_ids))
            if gathered is not None:
                write_submission(output, gathered)
        if gathered is not None:
            stamps = {volume.name: stamp_images(volume) for volume in volumes}
            devices = [predictor.device for predictor in predictors]
            origin = write_origin(output, "predict", checkpoints, inference, stamps, devices, watch.seconds)
            print(_closing_lines(output, volumes, origin))
            if save_probability is not None:
                note_learned(save_probability, volumes, learned)


def _closing_lines(output: Path, volumes: "Sequence[Volume]", origin: Mapping[str, Any]) -> str:
    """What predict says in the end: what ran, how long it took, how much vessel it found, and where that lies."""
    from ..submission.counts import count_vessels
    from ..submission.provenance import format_provenance
    from ..submission.submission import read_submission

    slices, seconds = sum(map(len, volumes)), origin["seconds"]
    lines = [
        format_provenance(origin),
        f"time: {seconds['segment'] / slices:.2f} s per slice, {slices} in {seconds['segment']:.1f} s; loading took "
        f"{seconds['load']:.1f} s",
        *map(str, count_vessels(volumes, dict(read_submission(output)))),
        f"{output}: {slices} rows; {output.with_suffix('.json')} says what made them",
    ]
    return "\n".join(lines)


def validate(submission: Path, data_dir: Path) -> None:
    """Check that Kaggle would accept a submission for the slices of DATA_DIR/test.

    The file must be a csv in UTF-8 with exactly the columns id,rle, and have each test slice once; the order of the
    rows does not matter. It is read as pandas.read_csv reads it.

    Args:
        submission: The csv to check.
        data_dir: A folder in the competition's layout.
    """
    from ..data.volume import open_volumes
    from ..submission.submission import refuse, validate_submission

    volumes = open_volumes(data_dir, "test")
    refuse(submission, validate_submission(submission, volumes))
    print(f"{submission}: valid, {sum(map(len, volumes))} rows")


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
    from ..rendering import format_table
    from ..scoring.score import format_scores, scores_to_json
    from ..scoring.score_csv import score_submission
    from ..submission.provenance import warn_if_learned

    scored = score_submission(submission, labels, size, cl_dice, labelled_only, data_dir)
    if json:
        print(scores_to_json(scored.kidneys, scored.slices if per_slice else None))
    else:
        print(f"{format_table(scored.slices)}\n" if per_slice else "", format_scores(scored.kidneys), sep="")
    warn_if_learned(submission, labels)


def sweep(
    probability: Path, labels: Path, output_dir: Path, metric: str = "surface_dice", cl_dice: bool = False
) -> None:
    """Score kept probabilities at every threshold in one pass, and find the plateau.

    Slices without a label are left out; score --help says what each metric is.

    Args:
        probability: The folder that predict --save-probability made.
        labels: As for score.
        output_dir: Gets sweep.csv and sweep.png.
        metric: The one whose plateau chooses the threshold: surface_dice (which needs neighbouring slices),
            surface_dice_2d_1px, dice_pooled, dice_mean, dice_without_largest or cl_dice.
        cl_dice: Also compute clDice, which takes several times as long as all the rest.
    """
    from ..scoring.sweep import write_sweep

    print(write_sweep(probability, labels, output_dir, metric, cl_dice))


def report(
    run_dir: Path | None = None,
    data_dir: Path | None = None,
    volume: tuple[str, ...] = (),
    scan: Path | None = None,
    mask: Path | None = None,
    labels: Path | None = None,
    level: str | None = None,
    output: Path | None = None,
    title: str | None = None,
    beside: Path | None = None,
) -> None:
    """Write one self-contained HTML page of a run: slices with their errors, Dice along the organ, curves, 3D.

    Of a run in the competition's layout: --run-dir and --data-dir. Of a scan of your own: --scan and --mask.

    Args:
        run_dir: What predict, dry-run, train or sweep left: submission.csv or checkpoint.safetensors (which then
            segments the kidneys, anew when it has changed), and, where they are there, metrics.csv and sweep.csv.
        data_dir: A folder in the competition's layout with the run's kidneys.
        volume: Kidneys to show; those of the submission or the checkpoint's training when not given.
        scan: A scan in any format that segment reads.
        mask: What segment made of it.
        labels: A mask to compare that with, such as a corrected one.
        level: Resolution level of the scan that was segmented, where it is an OME-Zarr.
        output: The page; RUN_DIR/report.html, or the mask's name with .html, when not given.
        title: What stands at its top; the run's folder or the scan when not given.
        beside: The folder of a second run, whose masks of the same kidneys stand beside those of the first.
    """
    from ..errors import InputError
    from ..files import check_output
    from ..reports.page import write_page
    from ..reports.page_kidney import Prediction
    from ..reports.run import RUN_FILES, open_run
    from ..reports.scan import open_masked_scan

    if scan is not None and mask is not None and run_dir is None and data_dir is None and not volume and beside is None:
        shown, texts, notes = open_masked_scan(scan, mask, labels, level)
        output = output or Path(f"{mask}.html")
        write_page(output, title=title or f"sennet-kaggle: {shown.name}", volumes=[shown], rles=texts, notes=notes)
    elif run_dir is not None and data_dir is not None and (scan, mask, labels, level) == (None,) * 4:
        output = output or run_dir / "report.html"
        check_output(output, (run_dir / name for name in RUN_FILES))
        run = open_run(run_dir, data_dir, volume)
        name, notes, other = run_dir.resolve().name, run.shown_notes, None
        if beside is not None:
            second = open_run(beside, data_dir, tuple(each.name for each in run.volumes))
            other = Prediction(second.rles, beside.resolve().name, second.about, second.seen)
            notes = [f"{name}: {note}" for note in notes]
            notes += [f"{other.name}: {note}" for note in second.shown_notes]
        write_page(
            output,
            title=title or f"sennet-kaggle: {name}{f' beside {other.name}' if other else ''}",
            volumes=run.volumes,
            rles=run.rles,
            about=run.about,
            seen=run.seen,
            name=name if other else "Prediction",
            other=other,
            history=run.history,
            sweep=run.sweep,
            notes=notes,
        )
    else:
        raise InputError(
            "a report is of a run (give --run-dir and --data-dir) or of a scan and its mask (give --scan and --mask)"
        )
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, for any browser, without network")


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
    from ..files import shipped_checkpoints
    from ..kernel.dry_run import check_rehearsal, open_rehearsal_volumes, rehearse
    from ..rendering import format_table
    from ..submission.provenance import warn_of_learned_volumes

    check_rehearsal(output_dir)
    volumes = open_rehearsal_volumes(data_dir, volume, output_dir / "phantom")
    submission_path, table, picture_path = rehearse(volumes, output_dir, mount_layout, None, checkpoint, on_kaggle)
    print(format_table(table) if table is not None else "no labels, so no score")
    warn_of_learned_volumes(checkpoint or shipped_checkpoints(), volumes, data_dir)
    print(f"submission: {submission_path}\npicture:    {picture_path}")
