"""A finished submission → what the notebook's last cell shows of it: counts per kidney, and a picture."""

from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import InputError
from ..submission.submission import read_submission
from .fault_tolerant_volume import FaultTolerantVolume, open_fault_tolerant_volumes
from .faults import Faults
from .inputs import find_competition
from .settings import KernelSettings

if TYPE_CHECKING:
    import pandas as pd


def count_vessels(settings: KernelSettings) -> "pd.DataFrame":
    """Counts what the submission says.

    Returns:
        A row per kidney: its slices, those with vessels, vessel pixels, and their share of all pixels in percent.
    """
    import pandas as pd  # the submission does not wait for it

    from ..submission.counts import VesselCount
    from ..submission.counts import count_vessels as count

    rles = dict(read_submission(settings.submission_path))
    return pd.DataFrame(count(_open(settings), rles), columns=VesselCount._fields)


def picture_of_submission(settings: KernelSettings, rows: int = 4) -> bytes:
    """Draws masks of the submission as outlines on their slices, from every kidney those with the most runs.

    Args:
        rows: how many slices, shared out among the kidneys.

    Returns:
        A PNG file's bytes.
    """
    from ..rendering import figure_to_png
    from ..reports.outlines import figure_of_slices  # nor for matplotlib
    from ..reports.report import segmented_slice

    rles = dict(read_submission(settings.submission_path))
    volumes = _open(settings)
    per_kidney = -(-rows // len(volumes))
    slices = []
    for volume in volumes:
        # A long text is a mask with many vessels, and need not be decoded to be found.
        fitting = [z for z in range(len(volume)) if volume.slice_size(z) == volume.size]
        busiest = sorted(fitting, key=lambda z: -len(rles[volume.slice_ids[z]]))
        for z in sorted(busiest[:per_kidney]):
            with suppress(InputError):  # a kidney without any sound slice, of which the run has spoken
                slices.append(segmented_slice(volume, z, rles))
    if not slices:
        raise InputError("no slice can be read: there is nothing to draw")
    return figure_to_png(figure_of_slices(slices[:rows]))


def _open(settings: KernelSettings) -> list[FaultTolerantVolume]:
    """The kidneys once more, without saying again what the run has said of them."""
    return open_fault_tolerant_volumes(
        find_competition(settings.input_dir, settings.competition), Faults(strict=False, say=lambda _: None)
    )
