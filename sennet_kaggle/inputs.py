"""What is attached to the notebook, in Kaggle's old or new mount layout; or one line that says what is missing."""

from collections.abc import Sequence
from pathlib import Path

from .errors import InputError

# Where Kaggle mounts an attached input under /kaggle/input, its old layout first.
COMPETITION_MOUNTS = ("{slug}", "competitions/{slug}")
CHECKPOINT_MOUNTS = ("{slug}", "datasets/*/{slug}", "models/*/{slug}/*/*/*")


def find_competition(input_dir: Path, slug: str) -> Path:
    """Finds the competition's folder, which holds `test/`, in Kaggle's old or new mount layout.

    Raises:
        InputError: it is not there; the message lists what is mounted and says what to attach.
    """
    test_dirs = _mounted(input_dir, COMPETITION_MOUNTS, slug, "test")
    if not test_dirs:
        raise InputError(
            f"the competition {slug!r} is not attached (no test/ folder of it under "
            f"{input_dir}): add it as an input of the notebook. Mounted: {_inventory(input_dir)}"
        )
    return test_dirs[0].parent


def find_checkpoints(input_dir: Path, slug: str) -> list[Path]:
    """Finds the checkpoint files, in ascending order; raises as `find_competition`."""
    paths = _mounted(input_dir, CHECKPOINT_MOUNTS, slug, "*.safetensors")
    if not paths:
        raise InputError(
            f"no *.safetensors of {slug!r} under {input_dir}: add that dataset as "
            f"an input of the notebook. Mounted: {_inventory(input_dir)}"
        )
    return paths


def _mounted(input_dir: Path, mounts: Sequence[str], slug: str, wanted: str) -> list[Path]:
    """What there is of an input in the first layout that has any."""
    for mount in mounts:
        found = sorted(input_dir.glob(f"{mount.format(slug=slug)}/{wanted}"))
        if found:
            return found
    return []


def _inventory(input_dir: Path) -> str:
    folders = sorted(
        str(path.relative_to(input_dir))
        for depth in ("*", "*/*", "*/*/*")
        for path in input_dir.glob(depth)
        if path.is_dir()
    )
    return ", ".join(folders[:20]) or "nothing"
