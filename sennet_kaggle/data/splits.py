"""Which slices of kidneys have a label, and which of these are held out: by kidney, by slice id or at random."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import InputError
from .volume import Volume


def split_slices(
    volumes: Iterable[Volume],
    *,
    held_out_volumes: Sequence[str] = (),
    held_out_slices: Sequence[str] = (),
    held_out_fraction: float = 0.0,
    seed: int = 0,
) -> tuple[list[str], list[str]]:
    """Splits the labelled slices by kidney, by slice id or at random; at most one of the three is given.

    Neighbouring slices are nearly alike, so slices held out of a kidney that is learnt from say little of
    another kidney; a kidney held out does.

    Args:
        volumes: kidneys, in any order.
        held_out_volumes: names of kidneys.
        held_out_slices: slice ids.
        held_out_fraction: 0..1 (1 excluded); as near as whole slices allow in each kidney, and at least one in all.
        seed: of the random choice, which depends on nothing else but the slice ids.

    Returns:
        The ids to learn from and those held out, each in ascending order of kidney and slice.

    Raises:
        InputError: more than one way given, a name or id that is not there, a fraction out of range, or nothing
            left to learn from.
    """
    ways = {
        "held_out_volumes": held_out_volumes,
        "held_out_slices": held_out_slices,
        "held_out_fraction": held_out_fraction,
    }
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other: give one of them")
    labelled = labelled_slices(sorted(volumes, key=lambda volume: volume.name))
    if held_out_volumes:
        held_out = _ids_of_kidneys(labelled, held_out_volumes)
    elif held_out_slices:
        check_known(held_out_slices, labelled, "a labelled slice")
        held_out = {*held_out_slices}
    else:
        held_out = _random_ids(labelled, held_out_fraction, seed)
    learnt_from = [slice_id for slice_id in labelled if slice_id not in held_out]
    if not learnt_from:
        raise InputError(f"no labelled slice is left to learn from: {len(held_out)} of {len(labelled)} are held out")
    return learnt_from, [slice_id for slice_id in labelled if slice_id in held_out]


def labelled_slices(volumes: Iterable[Volume]) -> dict[str, tuple[Volume, int]]:
    """Volume and z by slice id."""
    return {volume.slice_ids[z]: (volume, z) for volume in volumes for z in labelled_zs(volume)}


def labelled_zs(volume: Volume) -> list[int]:
    """The slices of a volume that have a label, in ascending order."""
    return [z for z in range(len(volume)) if volume.is_labelled(z)]


def check_known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Compares names with those that there are.

    Args:
        names: kidneys or slice ids that were asked for.
        known: those that there are.
        what: what each of these is, for the message, such as "a labelled slice".

    Raises:
        InputError: one of the names is not there.
    """
    known = list(dict.fromkeys(known))
    unknown = sorted({*names} - {*known})
    if unknown:
        listing = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
        raise InputError(f"{unknown[0]} is not {what}: expected one of {listing or 'none'}")


def _ids_of_kidneys(labelled: dict[str, tuple[Volume, int]], names: Sequence[str]) -> set[str]:
    check_known(names, [volume.name for volume, _ in labelled.values()], "a kidney with labelled slices")
    return {slice_id for slice_id, (volume, _) in labelled.items() if volume.name in names}


def _random_ids(labelled: dict[str, tuple[Volume, int]], fraction: float, seed: int) -> set[str]:
    """Draws from each kidney in proportion: its shuffled slices are laid evenly over 0..1 and the first are taken."""
    if not 0 <= fraction < 1:
        raise InputError(f"held_out_fraction must lie in 0..1 (1 excluded), got {fraction}")
    if fraction == 0:
        return set()
    rng = np.random.default_rng(seed)
    by_kidney: dict[str, list[str]] = {}
    for slice_id, (volume, _) in labelled.items():
        by_kidney.setdefault(volume.name, []).append(slice_id)
    order = sorted(
        ((rank + 0.5) / len(ids), slice_id)
        for ids in by_kidney.values()
        for rank, slice_id in enumerate(rng.permutation(ids).tolist())
    )
    number = min(max(1, round(fraction * len(order))), max(1, len(order) - 1))
    return {slice_id for _, slice_id in order[:number]}
