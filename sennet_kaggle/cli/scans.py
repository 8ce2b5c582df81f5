"""Commands on scans alone: measure them, make a synthetic one."""

from pathlib import Path
from typing import Literal

import tyro

from ..config import Preprocessing

# Heavy libraries are imported by the commands that need them, so that --help answers at once.


def stats(data_dir: Path, volume: tuple[str, ...] = (), preprocessing: Preprocessing = Preprocessing()) -> None:  # noqa: B008
    """Measure a data set: grey values, mean and standard deviation, how much of it is vessel.

    Args:
        data_dir: A folder in the competition's layout.
        volume: Kidneys of train/; all when not given.
        preprocessing: What the model's input is; mean and std are measured before they are applied.
    """
    from ..data.volume import open_volumes
    from ..reports.stats import format_stats, measure_stats

    preprocessing.check()
    print(format_stats(measure_stats(open_volumes(data_dir, "train", volume), preprocessing)))


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
    from ..data.phantom import Phantom, write_phantom

    print(write_phantom(directory, name, Phantom(shape, seed), split=split, with_labels=labels, progress=True))
