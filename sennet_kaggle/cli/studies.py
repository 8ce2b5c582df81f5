"""Commands that train or run several models, and write down how they compare."""

from pathlib import Path
from typing import Any, Literal

from ..config import DEFAULT_INFERENCE
from ..errors import InputError

# Heavy libraries are imported by the commands that need them, so that --help answers at once.


def compare(
    data_dir: Path,
    output_dir: Path,
    experiment: tuple[str, ...] = (),
    test_volume: str = "kidney_2",
    seed: tuple[int, ...] = (0,),
    override: dict[str, Any] = {},  # noqa: B006 (only read)
    weights_path: Path | None = None,
    group: Literal["report", "native"] = "report",
    weights_dir: Path | None = None,
) -> None:
    """Train the report's experiments, validate each on a kidney it has not seen, and write the comparison.

    With --group native: other models with the recipe of the shipped one instead, cross-validated, and timed.

    Args:
        data_dir: A folder in the competition's layout.
        output_dir: Gets comparison.md, results.csv, curves.png, predictions.png and a folder per run, or native.md,
            results.csv, accuracy-speed.png and the same; stopped runs go on.
        experiment: Which to compare; all of the group but sam-zero-shot when not given.
        test_volume: The kidney of train/ to validate on (group report).
        seed: Each experiment is trained once with each.
        override: Changed settings by pattern of names, as JSON, such as '{"segformer-*": {"epochs": 6}}'.
        weights_path: Weights of Segment Anything, for sam-zero-shot.
        group: report or native.
        weights_dir: The folder with the files of published weights that two of the group native start from.
    """
    if group == "native":
        _compare_native(data_dir, output_dir, experiment, seed, override, weights_dir, weights_path, test_volume)
        return
    if weights_dir is not None:
        raise InputError(
            "weights_dir is of --group native, but the group is report: leave it out, or give --group native"
        )
    from ..studies.compare import REPORT_EXPERIMENTS
    from ..studies.compare import compare as run_comparison

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


def _compare_native(
    data_dir: Path,
    output_dir: Path,
    experiment: tuple[str, ...],
    seed: tuple[int, ...],
    override: dict[str, Any],
    weights_dir: Path | None,
    weights_path: Path | None,
    test_volume: str,
) -> None:
    from ..studies.experiments import NATIVE_EXPERIMENTS
    from ..studies.native import compare_native

    if len(seed) != 1:
        raise InputError(f"--group native takes one seed, got {list(seed)}: give one")
    if test_volume != "kidney_2":
        raise InputError(f"--group native tests on kidney_2, got {test_volume}: leave --test-volume out")
    if weights_path is not None:
        raise InputError(f"--group native takes a folder of weights, got the file {weights_path}: give --weights-dir")
    path = compare_native(data_dir, output_dir, experiment or NATIVE_EXPERIMENTS, seed[0], override, weights_dir)
    print(f"\n{path.read_text(encoding='utf-8')}\n{path}")


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
    from ..studies.ablate import ablate as run_ablation

    path = run_ablation(data_dir, output_dir, seed, override)
    print(f"\n{path.read_text(encoding='utf-8')}\n{path}")


def compare_planes(
    output_dir: Path,
    seed: tuple[int, ...] = (0, 1, 2),
    override: dict[str, Any] = {},  # noqa: B006 (only read)
) -> None:
    """Measure what windows across three axes and neighbouring slices give, on synthetic kidneys.

    Args:
        output_dir: Gets planes.md, planes.csv, the kidneys and a folder per run; stopped runs go on.
        seed: Every model is trained with each.
        override: Settings changed in every run, as JSON, such as '{"epoch_slices": 100}'.
    """
    from ..studies.ablate_planes import compare_planes as run_comparison

    path = run_comparison(output_dir, seed, override)
    print(f"\n{path.read_text(encoding='utf-8')}\n{path}")


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
    from ..files import shipped_checkpoints
    from ..models.identity import record_images as add_digests
    from ..reports.card import write_card

    paths = checkpoint or shipped_checkpoints()
    if record_images:
        for path in paths:
            add_digests(path, data_dir)
    path = write_card(paths, data_dir / "train" / volume, output_dir)
    print(f"{path.read_text(encoding='utf-8')}\n{path}")


def score_patches(
    patches: Path,
    output_dir: Path,
    checkpoint: tuple[Path, ...] = (),
    threshold: tuple[float, ...] = (0.2, 0.4),
    axes: tuple[Literal["z", "zyx"], ...] = ("z", "zyx"),
    patch: tuple[int, ...] = (2, 4, 8, 15),
    extra_scales: tuple[float, ...] = DEFAULT_INFERENCE.extra_scales,
) -> None:
    """Score checkpoints on labelled 3D patches of real tissue: Surface Dice in 3D, the competition's metric.

    The patches are a .npz file with x (N, D, H, W) uint8, the high bytes of a scan's grey values, and y, bool. They are
    lossy and show unknown kidneys, so they are for a look, and choose nothing.

    Args:
        patches: The .npz file.
        output_dir: Gets patches.md.
        checkpoint: Checkpoints to score, each alone and all together; the shipped ones when none is named.
        threshold: Probabilities above which a voxel is vessel.
        axes: z, slice by slice, and zyx, the mean over three axes.
        patch: Which patches, from 0; those with vessels when not given.
        extra_scales: Further scales of models of windows, as of `predict`.
    """
    from ..files import shipped_checkpoints
    from ..studies.patches import score_patches as run_scoring

    path = run_scoring(patches, checkpoint or shipped_checkpoints(), output_dir, threshold, axes, patch, extra_scales)
    print(f"{path.read_text(encoding='utf-8')}\n{path}")


def sam_zero_shot(
    data_dir: Path,
    output_dir: Path,
    weights_path: Path | None = None,
    volume: tuple[str, ...] = ("kidney_2",),
    slices: tuple[str, ...] = (),
    window_size: int | None = None,
    model_arguments: dict[str, Any] = {},  # noqa: B006 (only read)
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
) -> None:
    """Let Segment Anything propose masks without any training, and see how vessels fare.

    Args:
        data_dir: A folder in the competition's layout.
        output_dir: Gets zero-shot.csv, zero-shot.md and a picture per slice.
        weights_path: Segment Anything's weights, such as sam_vit_b_01ec64.pth.
        volume: Kidneys of train/; their labelled slices are scored.
        slices: Slice ids to score; all labelled ones when not given.
        window_size: Show the model windows of so many pixels at the slice's own size; without it, the whole slice
            squeezed to 512 x 512, as the report did.
        model_arguments: Further arguments of the model, as JSON, such as '{"variant": "vit_h"}'.
        device: auto (a GPU where there is one), cpu, cuda or cuda:N.
        precision: Arithmetic of the model; bfloat16 takes less time on CPUs that have it.
    """
    from ..rendering import format_table
    from ..studies.zero_shot import run_zero_shot

    table = run_zero_shot(
        data_dir,
        output_dir,
        weights_path,
        volume_names=volume,
        slice_ids=slices,
        window_size=window_size,
        model_arguments=model_arguments,
        device=device,
        precision=precision,
    )
    print(format_table(table))


def sam_prompts(
    data_dir: Path,
    output_dir: Path,
    weights_path: Path | None = None,
    checkpoint: tuple[Path, ...] = (),
    volume: tuple[str, ...] = ("kidney_1_dense", "kidney_2"),
    slices: tuple[str, ...] = (),
    min_area: int = 100,
    views: tuple[Literal["whole slice", "window"], ...] = ("whole slice", "window"),
    random_weights: bool = False,
    model_arguments: dict[str, Any] = {},  # noqa: B006 (only read)
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
) -> None:
    """Prompt Segment Anything with boxes and points, of the labels and of a trained model's masks.

    Args:
        data_dir: A folder in the competition's layout.
        output_dir: Gets prompts.csv, prompts.md and prompts.png.
        weights_path: Segment Anything's weights.
        checkpoint: The trained models, whose masks are averaged; the shipped ones when not given.
        volume: Kidneys of train/; their labelled slices are used.
        slices: Slice ids; all labelled ones when not given.
        min_area: Components of fewer pixels are left out.
        views: What the model is shown: the whole slice, or a window of 256 pixels or more around the component.
        random_weights: Leave Segment Anything's weights random, for comparison.
        model_arguments: Further arguments of the model, as JSON, such as '{"variant": "vit_t"}'.
        device: auto (a GPU where there is one), cpu, cuda or cuda:N.
        precision: Arithmetic of the model; bfloat16 takes less time on CPUs that have it.
    """
    from ..studies.sam_prompts import TEXT_NAME, run_prompts

    run_prompts(
        data_dir,
        output_dir,
        weights_path,
        checkpoints=checkpoint,
        volume_names=volume,
        slice_ids=slices,
        min_area=min_area,
        views=views,
        random_weights=random_weights,
        model_arguments=model_arguments,
        device=device,
        precision=precision,
    )
    print((output_dir / TEXT_NAME).read_text(encoding="utf-8"))
