"""What a submission is scored against: labels or another submission, the size of each kidney's masks, its runs."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.names import consecutive_runs, natural_key
from ..data.tiff import read_mask
from ..data.volume import find_volumes, kidney_dir_of, open_labels, slice_stems
from ..errors import InputError, warn
from ..submission.rle import check_size, rle_decode
from ..submission.submission import read_unique_rows

Size = tuple[int, int]
Rows = Mapping[str, Mapping[str, str]]
Known = Mapping[str, str]

_TWINS = {"_sparse": "_dense", "_dense": "_sparse"}


def kidney_of(slice_id: str, known: Known = {}) -> str:  # noqa: B006 (only read)
    """The kidney of a slice id, which is `<kidney>_<stem>`.

    Args:
        slice_id: as in a submission.
        known: see `known_kidneys`; of any other slice the stem is taken to have no "_".
    """
    begin = slice_id.rpartition("_")[0]
    return known.get(begin, begin)


def known_kidneys(labels_path: Path | str | None = None, data_dir: Path | str | None = None) -> Known:
    """What folders tell of which kidney a slice is: k_1 has k_1_slice_0001, and so all that begin with k_1_slice.

    Args:
        labels_path: as for `open_truth`; a csv tells nothing.
        data_dir: a folder in the competition's layout.

    Returns:
        The kidney by what stands before the last "_" of an id, for sparse and dense twins as well.
    """
    stems = slice_stems(data_dir) if data_dir is not None else []
    if labels_path is not None and Path(labels_path).is_dir():
        stems += [(kidney_dir_of(path).name, path.stem) for path in open_labels(labels_path).values()]
    stems += [(twin, stem) for name, stem in stems if (twin := _twin_of(name))]
    return {f"{name}_{stem}".rpartition("_")[0]: name for name, stem in stems}


def runs_by_kidney(slice_ids: Iterable[str], known: Known) -> dict[str, list[list[str]]]:
    """Splits ids into kidneys, and those into runs of consecutive slices, in order of depth.

    The order of the ids does not matter; `known` is as for `kidney_of`.
    """
    kidneys: dict[str, list[str]] = {}
    for slice_id in slice_ids:
        kidneys.setdefault(kidney_of(slice_id, known), []).append(slice_id)
    return {
        kidney: consecutive_runs(sorted(kidneys[kidney], key=natural_key))
        for kidney in sorted(kidneys, key=natural_key)
    }


@dataclass(frozen=True)
class Truth:
    """The labels of some kidneys, opened and not read."""

    labels: Mapping[str, Callable[[], np.ndarray]]
    """How to read each slice's label, (H, W) bool, by slice id in the order of the stack."""
    label_kidneys: dict[str, str]
    """Under which name each kidney has its labels: its own or that of its sparse or dense twin."""
    sizes: dict[str, Size]
    """(H, W) by kidney, where it is known before a label is read."""
    is_submission: bool = False
    """Whether the labels are the rows of a csv."""
    known: Known = field(default_factory=dict)
    """As for `kidney_of`."""

    def kidney_of(self, slice_id: str) -> str:
        return kidney_of(slice_id, self.known)

    def runs(self, slice_ids: Iterable[str]) -> dict[str, list[list[str]]]:
        """As `runs_by_kidney`."""
        return runs_by_kidney(slice_ids, self.known)

    def read(self, slice_id: str) -> np.ndarray:
        """Reads a label: (H, W) bool.

        Raises:
            InputError: it cannot be read, or its size is not that of the kidney's first label or of what else is known.
        """
        mask = self.labels[slice_id]()
        rows, columns = mask.shape
        height, width = self.sizes.setdefault(self.kidney_of(slice_id), (rows, columns))
        if (rows, columns) != (height, width):
            raise InputError(
                f"the label of {slice_id} is {rows}x{columns}, but the masks of its kidney are "
                f"{height}x{width}: all must be of one size"
            )
        return mask


def open_truth(
    labels_path: Path | str,
    kidneys: Iterable[str],
    size: Sequence[str] = (),
    known_sizes: Mapping[str, Mapping[str, Size]] | None = None,
    known: Known = {},  # noqa: B006 (only read)
) -> Truth:
    """Opens the labels of some kidneys, or a submission that is taken for the truth, without reading a mask.

    Where a kidney `<name>_sparse` has no label and `<name>_dense` has, and is not itself among the kidneys, these are
    taken, and the other way round: kidney_3_dense's labels belong to images of kidney_3_sparse.

    Args:
        labels_path: a folder with labels (see `volume.open_labels`), or a csv with the columns of a submission.
        kidneys: whose labels are wanted; their names stand in the ids that come back.
        size: see `parse_sizes`.
        known_sizes: (H, W) by kidney, by the name of what tells it; all must agree.
        known: as for `kidney_of`.

    Raises:
        InputError: neither a folder with labels nor a submission, no label of any kidney, or the size of the masks
            is not known or told in two ways.
    """
    labels_path, kidneys = Path(labels_path), set(kidneys)
    is_folder = labels_path.is_dir()
    labels: Mapping[str, Any] = open_labels(labels_path) if is_folder else read_unique_rows(labels_path)
    kidney_by_id = {slice_id: kidney_of(slice_id, known) for slice_id in labels}
    labelled = set(kidney_by_id.values())
    names = label_kidneys(kidneys, labelled)
    if not names:
        raise InputError(
            f"{labels_path} has no label of {_listed(kidneys)}: expected labels of the same kidneys, "
            f"found {_listed(labelled)}"
        )
    for kidney, label_kidney in names.items():
        if kidney != label_kidney:
            warn(
                f"{labels_path} has no label of {kidney}: those of {label_kidney} are taken, which has the same slices"
            )
    own_names = {label_kidney: kidney for kidney, label_kidney in names.items()}
    stacked = sorted(labels, key=lambda slice_id: (natural_key(kidney_by_id[slice_id]), natural_key(slice_id)))
    wanted = {
        own_names[kidney] + slice_id.removeprefix(kidney): labels[slice_id]
        for slice_id in stacked
        if (kidney := kidney_by_id[slice_id]) in own_names
    }
    sizes = dict(known_sizes or {}) | {"--size": parse_sizes(size, sorted(names, key=natural_key))}
    if is_folder:
        return Truth({id_: partial(read_mask, path) for id_, path in wanted.items()}, names, agree(sizes), known=known)
    agreed = agree(sizes | {str(labels_path): sizes_of_rows(wanted, labels_path, known)})
    for kidney in names:
        if kidney not in agreed:
            raise InputError(
                f"{labels_path} does not say how large the masks of {kidney} are: give --size {kidney}=HEIGHTxWIDTH, "
                "or --data-dir with its images"
            )
    readers = {
        slice_id: partial(_decode_row, row, agreed[kidney_of(slice_id, known)], labels_path)
        for slice_id, row in wanted.items()
    }
    return Truth(readers, names, agreed, is_submission=True, known=known)


def label_kidneys(kidneys: Iterable[str], labelled: Iterable[str]) -> dict[str, str]:
    """Finds under which name each kidney has labels: its own, or else that of its sparse or dense twin.

    Returns:
        Name in `labelled` by name in `kidneys`; kidneys without labels are not in it.
    """
    kidneys, labelled = set(kidneys), set(labelled)
    found = {}
    for kidney in kidneys:
        twin = _twin_of(kidney)
        if kidney in labelled:
            found[kidney] = kidney
        elif twin in labelled and twin not in kidneys:
            found[kidney] = twin
    return found


def agree(sources: Mapping[str, Mapping[str, Size]]) -> dict[str, Size]:
    """Joins what several sources say of the kidneys' sizes.

    Args:
        sources: (H, W) by kidney, by the source's name.

    Raises:
        InputError: two sources contradict each other.
    """
    agreed: dict[str, tuple[Size, str]] = {}
    for source, sizes in sources.items():
        for kidney, size in sizes.items():
            first, first_source = agreed.setdefault(kidney, (size, source))
            if size != first:
                raise InputError(
                    f"masks of {kidney} must be of one size, but they are {first[0]}x{first[1]} by {first_source} and "
                    f"{size[0]}x{size[1]} by {source}: correct one of them"
                )
    return {kidney: size for kidney, (size, _) in agreed.items()}


def parse_sizes(texts: Sequence[str], kidneys: Sequence[str]) -> dict[str, Size]:
    """Reads sizes as they are given on the command line.

    Args:
        texts: "kidney_5=1303x912" for each kidney; or for a single one "1303x912", or "1303" and "912".
        kidneys: the kidneys that may have one.

    Returns:
        (H, W) by kidney.

    Raises:
        InputError: a size that is none, of no kidney, for several kidneys at once, or two for one kidney.
    """
    if len(texts) == 2 and not any("=" in text or _SIZE.fullmatch(text) for text in texts):
        texts = ["x".join(texts)]
    sources: dict[str, dict[str, Size]] = {}
    for text in texts:
        kidney, named, size = text.rpartition("=")
        if not named and len(kidneys) != 1:
            raise InputError(
                f"one --size {text[:50]} does not do for {len(kidneys)} kidneys ({', '.join(kidneys)}): "
                "give --size KIDNEY=HEIGHTxWIDTH of each"
            )
        if named and kidney not in kidneys:
            raise InputError(f"--size {text[:50]} is of none of the kidneys: expected one of {', '.join(kidneys)}")
        sources[f"--size {text}"] = {kidney if named else kidneys[0]: _parse_size(size, f"--size {text}")}
    return agree(sources)


def sizes_of_images(data_dir: Path | str, kidneys: Iterable[str]) -> dict[str, Size]:
    """Reads the size of each kidney's slices from their headers.

    Raises:
        InputError: as `volume.find_volumes`, or slices of several sizes in one kidney.
    """
    volumes = find_volumes(data_dir, tuple(kidneys))
    sources = {
        str(path): {volume.name: volume.slice_size(z)}
        for volume in volumes
        for z, path in enumerate(volume.image_paths)
    }
    return agree(sources)


def sizes_of_rows(rows: Rows, path: Path | str, known: Known = {}) -> dict[str, Size]:  # noqa: B006 (only read)
    """Reads the size of each kidney's masks from the columns height and width; none where there are none.

    `known` is as for `kidney_of`.

    Raises:
        InputError: a size that is none, or two sizes in one kidney.
    """
    sizes: dict[str, dict[str, Size]] = {}
    for slice_id, row in rows.items():
        if row.get("height") and row.get("width"):
            source = f"{path} {slice_id[:100]!r}"
            sizes[source] = {kidney_of(slice_id, known): _parse_size(f"{row['height']}x{row['width']}", source)}
    return agree(sizes)


# A column of whole numbers with a gap is written as 1303.0 by pandas.
_SIZE = re.compile(r"\s*([0-9]{1,18})(?:\.0+)?\s*[xX×]\s*([0-9]{1,18})(?:\.0+)?\s*")


def _parse_size(text: str, source: str) -> Size:
    match = _SIZE.fullmatch(text)
    if not match:
        raise InputError(
            f"{source[:150]}: expected HEIGHTxWIDTH in whole numbers, such as 1303x912, found {text[:50]!r}"
        )
    height, width = map(int, match.groups())
    try:
        check_size(height, width)
    except InputError as error:
        raise InputError(f"{source[:150]}: {error}") from error
    return height, width


def _decode_row(row: Mapping[str, str], size: Size, path: Path) -> np.ndarray:
    try:
        return rle_decode(row["rle"], *size)
    except InputError as error:
        raise InputError(f"{path} {row['id']}: {error}") from error


def _twin_of(kidney: str) -> str | None:
    """The name of a sparse kidney's dense twin, and the other way round; None for any other kidney."""
    return next((kidney.removesuffix(end) + other for end, other in _TWINS.items() if kidney.endswith(end)), None)


def _listed(kidneys: Iterable[str]) -> str:
    names = sorted((repr(kidney)[1:-1][:50] or "a row without a kidney" for kidney in kidneys), key=natural_key)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
