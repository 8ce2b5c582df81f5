"""Commands that train a model, and that make a checkpoint of weights from elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ..config import Preprocessing, Training
from ..studies.experiments import EXPERIMENTS

# Heavy libraries are imported by the commands that need them, so that --help answers at once.


@dataclass(frozen=True)
class TrainingRun:
    """One training run."""

    data_dir: Path
    """A folder in the competition's layout: train/<kidney>/{images,labels}/*.tif, or images.* and labels.* in a format
    that segment reads, such as images.ome.zarr and a corrected labels.ome.zarr."""
    output_dir: Path
    """Gets checkpoint.safetensors, metrics.csv, curves and pictures; a stopped run in it goes on. Made if missing."""
    training: Training
    cache_dir: Path | None = None
    """Where resized slices are kept between epochs and runs; OUTPUT_DIR/cache when not given."""


if TYPE_CHECKING:
    NamedRun = TrainingRun
else:
    NamedRun = tyro.extras.subcommand_type_from_defaults(
        {name: TrainingRun(tyro.MISSING, tyro.MISSING, training) for name, training in EXPERIMENTS.items()}
    )


def train(run: NamedRun) -> None:
    """Train a named experiment, or go on with a stopped one; every setting can be overridden.

    Several processes: torchrun --nproc-per-node N -m sennet_kaggle train NAME …

    Args:
        run: The experiment.
    """
    from ..distributed import global_rank
    from ..training.evaluate import describe_best
    from ..training.train import fit

    path = fit(run.training, run.data_dir, run.output_dir, run.cache_dir)
    if global_rank() == 0:
        print(describe_best(path))


def experiments() -> None:
    """List the named experiments with their settings."""
    from ..studies.experiments import format_experiments

    print(format_experiments())


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
    from ..training.pack import pack as pack_weights

    pack_weights(model, weights_path, output, model_arguments, preprocessing, threshold)
    print(output)
