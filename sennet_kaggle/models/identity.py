"""Which slices are the same image: compared by their pixels, whatever file, folder or kidney they stand under."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..data.tiff import read_grey
from ..data.volume import Volume, open_volume
from ..errors import InputError, warn
from .checkpoint import Card, read_card, replace_card

Places = Mapping[str, tuple[Volume, int]]
"""Volume and z of slices, by slice id."""

_BLANK = "blank"
"""In place of a digest: a slice of one value is the same in every kidney, and says nothing of which it is from."""
_THREADS = 4


@dataclass(frozen=True)
class Seen:
    """What some checkpoints have seen of some slices: by slice id, the slice of theirs that is the same image."""

    slices: int
    """How many were looked at."""
    learned: dict[str, str] = field(default_factory=dict)
    """The same image was learned from."""
    chosen: dict[str, str] = field(default_factory=dict)
    """The same image was held out: epoch and threshold were chosen on it."""
    by_content: bool = True
    """Whether all pixels could be compared; else names were, where the others' pixels are not known."""
    unknown: bool = False
    """A checkpoint does not say what it has learned from, such as one of foreign weights."""

    def claim(self, subject: str = "no model") -> str:
        """What can be said of the slices, as a clause that follows their kidney's name."""
        if self.learned:
            chosen = f", and epoch and threshold were chosen on {len(self.chosen)}" if self.chosen else ""
            return f"of which {len(self.learned)} of {self.slices} slices were learned from{chosen}"
        if self.unknown:
            return f"which {subject} is known to have seen (not every checkpoint says what it learned from)"
        how = "images compared by content" if self.by_content else "by name only: their images were not compared"
        if self.chosen:
            return f"which {subject} has learned from ({how}), but epoch and threshold were chosen on it"
        return f"which {subject} has seen ({how})"


def image_digest(slice_: np.ndarray) -> str:
    """Names an image by its size and pixels: copies under other names, compressions or byte orders are the same.

    Args:
        slice_: (H, W) uint8 or uint16.

    Returns:
        Such as "1303x912-0f3a…"; "blank" for a slice of one value.
    """
    if slice_.size and (slice_ == slice_.flat[0]).all():
        return _BLANK
    pixels = np.ascontiguousarray(slice_, dtype="<u2")
    height, width = slice_.shape
    return f"{height}x{width}-{hashlib.blake2b(pixels.data, digest_size=12).hexdigest()}"


def digest_slices(places: Places) -> dict[str, str]:
    """Reads slices and names their images, each file once in a process.

    Returns:
        `image_digest` by slice id.

    Raises:
        InputError: a slice cannot be read.
    """
    paths = [volume.image_paths[z] for volume, z in places.values()]
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(places, pool.map(_digest_of, paths), strict=True))


def same_images(digests: Mapping[str, str], others: dict[str, str]) -> dict[str, str]:
    """The slices whose image is also among others.

    Args:
        digests: by slice id.
        others: by slice id.

    Returns:
        Of the first, by slice id, the id of the other that is the same image. Blank slices are the same as none.
    """
    by_digest = {digest: slice_id for slice_id, digest in reversed(others.items()) if digest != _BLANK}
    return {slice_id: by_digest[digest] for slice_id, digest in digests.items() if digest in by_digest}


def check_split(learned: Places, held_out: Places) -> None:
    """Refuses a split that would validate a model on images that it learns from.

    Args:
        learned: slices to learn from.
        held_out: slices to validate it on.

    Raises:
        InputError: a held-out slice is the same image as one that is learned from, or one cannot be read.
    """
    shared = same_images(digest_slices(held_out), digest_slices(learned)) if held_out else {}
    if shared:
        slice_id, twin = next(iter(shared.items()))
        raise InputError(
            f"held-out slices must not be learned from as well, but {slice_id} is the same image as {twin} "
            f"({len(shared)} of {len(held_out)} such slices): hold both out, or leave one of them out"
        )


def what_was_seen(cards: Sequence[Card], places: Places, data_dir: Path | str | None = None) -> Seen:
    """Compares slices with those that checkpoints have learned from or were chosen on.

    Pixels are compared where a card has the digests of its images, or where these can be found in `data_dir` under
    the names that it gives; else names are, where `<kidney>_dense` and `<kidney>_sparse` are one kidney. A slice of
    a size that no card has is not read.

    Args:
        cards: of the checkpoints that answer.
        places: the slices.
        data_dir: a folder in the competition's layout, for cards without digests.

    Raises:
        InputError: a slice cannot be read.
    """
    learned = [slice_id for card in cards for slice_id in card.trained_on]
    chosen = [slice_id for card in cards for slice_id in card.training.get("held_out") or ()]
    known = {slice_id: digest for card in cards for slice_id, digest in card.image_digests.items()}
    unnamed = [slice_id for slice_id in (*learned, *chosen) if slice_id not in known]
    if unnamed and data_dir is not None:
        known |= digest_slices(_find(unnamed, Path(data_dir)))
    sizes = {digest.partition("-")[0] for digest in known.values()}
    digests = digest_slices({slice_id: at for slice_id, at in places.items() if _size_of(at) in sizes})
    return Seen(
        slices=len(places),
        learned=_shared(places, digests, learned, known),
        chosen=_shared(places, digests, chosen, known),
        by_content=all(slice_id in known for slice_id in unnamed),
        unknown=not all(card.says_what_it_learned for card in cards),
    )


def record_images(path: Path | str, data_dir: Path | str) -> None:
    """Adds the digests of its images to a checkpoint of an earlier version; weights and card stay as they are.

    Args:
        path: of the checkpoint; nothing is done where it has them.
        data_dir: a folder in the competition's layout, with the slices that the card names.

    Raises:
        InputError: a slice is not there.
    """
    card = read_card(path)
    slice_ids = [*card.trained_on, *(card.training.get("held_out") or ())]
    if all(slice_id in card.image_digests for slice_id in slice_ids):
        return
    places = _find(slice_ids, Path(data_dir))
    missing = [slice_id for slice_id in slice_ids if slice_id not in places]
    if missing:
        raise InputError(f"{data_dir} has no image of {missing[0]}, which {path} learned from or was chosen on")
    replace_card(path, replace(card, image_digests=digest_slices(places)))


def warn_of_learned(cards: Sequence[Card], places: Places, data_dir: Path | str | None = None) -> Mapping[str, str]:
    """Says in a line that slices were learned from, as `what_was_seen` finds them; by name where one is damaged.

    Returns:
        By slice id, the slice that the model has learned from.
    """
    try:
        return tell_learned(what_was_seen(cards, places, data_dir).learned, len(places))
    except InputError:  # which the work itself will refuse or survive
        return warn_of_learned_names(cards, places)


def warn_of_learned_names(cards: Sequence[Card], slice_ids: Iterable[str]) -> Mapping[str, str]:
    """As `warn_of_learned`, for slices of which there are names alone."""
    slice_ids, by_name = list(slice_ids), _by_name(slice_id for card in cards for slice_id in card.trained_on)
    return tell_learned({each: by_name[_plain(each)] for each in slice_ids if _plain(each) in by_name}, len(slice_ids))


def tell_learned(learned: Mapping[str, str], slices: int) -> Mapping[str, str]:
    """Warns that some of so many slices were learned from, and returns these."""
    if learned:
        slice_id, twin = next(iter(learned.items()))
        first = slice_id if slice_id == twin else f"{slice_id}, as {twin}"
        warn(
            f"{len(learned)} of {slices} slices were learned from by the model ({first}"
            f"{' and more' * (len(learned) > 1)}): a score on them says little of other kidneys"
        )
    return learned


def _shared(
    places: Places, digests: Mapping[str, str], theirs: Sequence[str], known: Mapping[str, str]
) -> dict[str, str]:
    """The slices that are among theirs: by pixels where those are known, else by name."""
    found = same_images(digests, {slice_id: known[slice_id] for slice_id in theirs if slice_id in known})
    by_name = _by_name(slice_id for slice_id in theirs if slice_id not in known)
    return {
        slice_id: found.get(slice_id) or by_name[_plain(slice_id)]
        for slice_id in places
        if slice_id in found or _plain(slice_id) in by_name
    }


def _by_name(slice_ids: Iterable[str]) -> dict[str, str]:
    return {_plain(slice_id): slice_id for slice_id in slice_ids}


def _plain(slice_id: str) -> str:
    """A slice id without _dense or _sparse: kidney_3_dense has labels for images of kidney_3_sparse."""
    return re.sub(r"_(dense|sparse)(?=_)", "", slice_id)


def _find(slice_ids: Sequence[str], data_dir: Path) -> dict[str, tuple[Volume, int]]:
    """Where slices are, as far as the kidneys of `data_dir/train` have them."""
    wanted = {*slice_ids}
    places: dict[str, tuple[Volume, int]] = {}
    for kidney_dir in sorted((data_dir / "train").glob("*/")):
        if any(slice_id.startswith(f"{kidney_dir.name}_") for slice_id in wanted):
            with suppress(InputError):
                volume = open_volume(kidney_dir)
                places |= {slice_id: (volume, z) for z, slice_id in enumerate(volume.slice_ids) if slice_id in wanted}
    return places


def _size_of(place: tuple[Volume, int]) -> str:
    volume, z = place
    height, width = volume.slice_size(z)
    return f"{height}x{width}"


def _digest_of(path: Path) -> str:
    path = path.resolve()
    if not path.is_file():
        raise InputError(f"{path} is missing")
    stat = path.stat()
    return _digest_file(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _digest_file(path: Path, size: int, time: int) -> str:  # noqa: ARG001 (a file that has changed is another one)
    return image_digest(read_grey(path))
