"""What the commands are given, and what must come of it: a module per kind, each with a TITLE and its CASES."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Prepare = Callable[[Path], object]
UNET = {"widths": [4, 8], "bottleneck": 8}

PREDICT = "predict --data-dir data --output out.csv --checkpoint small.safetensors"
TRAIN = (
    "train unet-dice-bce --data-dir data --output-dir out --train-volumes kidney_1 --held-out-fraction 0 "
    "--held-out-slices kidney_1_0000"
)


@dataclass(frozen=True)
class Case:
    """One input of one command.

    The command runs in a folder with small.safetensors, data/test/kidney_5 (3 slices of 40x31, 0000 to 0002) and
    data/train/kidney_1 (the same with labels).
    """

    given: str
    """What is given, for the table."""
    command: str
    """The arguments after `python -m sennet_kaggle`, split as a shell does."""
    says: tuple[str, ...] | str = ()
    """Texts that must stand in what is said: in the error of what is refused, in all output of what is read."""
    prepare: Prepare | None = None
    """Changes the folder before."""
    refused: bool = True
    """Whether the command ends with one line and exit status 2, leaving the folder as it was."""
    check: Prepare | None = None
    """Asserts what must hold of the folder after a command that reads its input."""


def cut_short(write: Callable[[str], Prepare], name: str) -> Prepare:
    """Writes a file of that name, and keeps the first third of it."""

    def cut(folder: Path) -> None:
        write(name)(folder)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 3])

    return cut


def damage_chunk(write: Callable[[str], Prepare], name: str) -> Prepare:
    """Writes an OME-Zarr of that name, and something else in place of its first chunk."""

    def damage(folder: Path) -> None:
        write(name)(folder)
        (folder / name / "0" / "c" / "0" / "0" / "0").write_bytes(b"no chunk at all")

    return damage
