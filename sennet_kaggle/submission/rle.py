"""Masks ↔ text: the competition's run-length encoding.

Pixels are numbered row by row (left to right, then down) from 1; a mask is the text
"start length start length …", and a mask without a vessel is "1 0".
"""

import numpy as np

from ..data.tiff_header import MAX_PIXELS
from ..errors import InputError

EMPTY_RLE = "1 0"


def rle_encode(mask: np.ndarray) -> str:
    """Encodes a mask.

    Args:
        mask: (H, W) bool, or any integer dtype with only 0 and 1.

    Returns:
        "start length" pairs in ascending order, 1-based and row-major; "1 0" when the mask is empty.

    Raises:
        ValueError: the mask is not 2D, or has values other than 0 and 1.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask must have shape (H, W), got {mask.shape}")
    if mask.dtype != np.bool_:
        if mask.size and (mask.min() < 0 or mask.max() > 1 or mask.dtype.kind not in "iu"):
            raise ValueError(
                f"mask must be bool or hold only the integers 0 and 1, got {mask.dtype} up to {mask.max()}"
            )
        mask = mask.astype(np.bool_)
    pixels = mask.ravel()
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1  # those on the border come next
    if pixels[:1].any():
        edges = np.insert(edges, 0, 0)
    if edges.size % 2:
        edges = np.append(edges, pixels.size)
    if edges.size == 0:
        return EMPTY_RLE
    edges[1::2] -= edges[::2]  # ends become lengths
    edges[::2] += 1
    return str(edges.tolist())[1:-1].replace(",", "")  # faster than joining the text of each number


def check_size(height: int, width: int) -> None:
    """Refuses the size of a mask before anything of that size is made.

    Raises:
        InputError: not positive, or more pixels than a slice may have.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise InputError(
            f"the size of a mask must be HEIGHTxWIDTH with at least 1 and at most {MAX_PIXELS} pixels, "
            f"found {height}x{width}"
        )


def rle_decode(rle: str, height: int, width: int) -> np.ndarray:
    """Decodes a run-length encoding.

    Args:
        rle: "start length" pairs, 1-based and row-major, or "1 0" for an empty mask; more spaces do no harm.
        height: rows of the mask.
        width: columns of the mask.

    Returns:
        (height, width) bool.

    Raises:
        InputError: the text is empty or has something else than positive integers, a start without a
            length, runs that overlap or are not in ascending order, or runs beyond the last pixel; or no
            slice can be that large.
    """
    check_size(height, width)
    starts, ends = parse_runs(rle)
    if starts.size and ends[-1] > height * width:
        raise InputError(
            f"RLE out of range: the run that starts at {starts[-1] + 1} ends at pixel {ends[-1]}, "
            f"but {height}x{width} has {height * width} pixels"
        )
    # Lengths of background and vessel in turn: 0..start, start..end, end..next start, …
    boundaries = np.zeros(2 * starts.size + 2, dtype=np.int64)
    boundaries[1:-1:2], boundaries[2:-1:2], boundaries[-1] = starts, ends, height * width
    is_vessel = np.zeros(2 * starts.size + 1, dtype=np.bool_)
    is_vessel[1::2] = True
    return np.repeat(is_vessel, np.diff(boundaries)).reshape(height, width)


def parse_runs(rle: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the runs of an encoding and checks all that can be checked without the mask's size.

    Args:
        rle: "start length" pairs.

    Returns:
        starts, ends: (R,) int64 each, 0-based, end exclusive; R is 0 for "1 0".

    Raises:
        InputError: as `rle_decode`, save for the range.
    """
    if not rle.strip(" ") or rle.strip().lower() in _NO_TEXT:
        found = f" (it says {rle.strip()!r})" if rle.strip() else ""
        raise InputError(f"RLE is empty{found}: a mask without a vessel is written {EMPTY_RLE!r}")
    not_numeric = rle.translate(_DROP_DIGITS_AND_SPACE)
    if not_numeric:
        hint = _HINTS.get(not_numeric[0], "")
        raise InputError(f"RLE must hold only digits and spaces, found {not_numeric[0]!r}{hint}")
    numbers = np.fromstring(rle, dtype=np.int64, sep=" ")
    if numbers.size % 2:
        raise InputError(f"RLE must hold pairs of start and length, found {numbers.size} numbers")
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    if numbers.size == 2 and not starts[0] and not lengths[0]:  # "1 0", whatever the spaces
        return starts[:0], starts[:0]
    ends = starts + lengths
    if starts.min() == -1:
        raise InputError(
            "RLE must hold starts of at least 1, found 0: pixels are counted from 1, so add 1 to each start"
        )
    if numbers.min() < 1:
        at = int(np.argmax(lengths < 1))
        raise InputError(
            f"RLE must hold lengths of at least 1, found {starts[at] + 1} {lengths[at]}: leave out empty runs; "
            f"{EMPTY_RLE!r} stands alone"
        )
    if ends.min() < 1:  # a number beyond int64 wraps round to a negative end
        raise InputError(f"RLE out of range: no slice has more than {MAX_PIXELS} pixels")
    if (starts[1:] < ends[:-1]).any():
        at = int(np.argmax(starts[1:] < ends[:-1]))
        how = "overlap" if starts[at + 1] >= starts[at] else "are not in ascending order"
        hint = ": are these starts and ends? Lengths are expected" if (lengths > starts).all() else ""
        pair, next_pair = (f"{starts[i] + 1} {lengths[i]}" for i in (at, at + 1))
        raise InputError(f"RLE runs {how}: {pair} is followed by {next_pair}{hint}")
    return starts, ends


class MaskCheck:
    """Tells masks that decode without an error to another picture: inverted, or numbered column by column.

    Vessels are wider than a pixel, so most of a mask's pixels have one below them: `width` further on when pixels
    are numbered row by row, `height` further on when they are numbered column by column. (A square mask tells nothing.)
    """

    def __init__(self) -> None:
        self._by_rows = self._by_columns = self._vessel = self._pixels = 0

    def add(self, mask: np.ndarray) -> None:
        """Counts the pixels of a decoded mask, (H, W) bool, and its neighbours until there are enough to tell."""
        self._pixels += mask.size
        self._vessel += np.count_nonzero(mask)
        if self._by_rows + self._by_columns > _ENOUGH_NEIGHBOURS:
            return
        height, width = mask.shape
        pixels = mask.ravel()
        self._by_rows += np.count_nonzero(pixels[width:] & pixels[:-width])
        self._by_columns += np.count_nonzero(pixels[height:] & pixels[:-height])

    @property
    def vessel_share(self) -> float:
        """Of all pixels of the masks so far, 0..1."""
        return self._vessel / max(self._pixels, 1)

    @property
    def inverted(self) -> bool:
        """Whether the masks so far mark more than half of all pixels, which no kidney's vessels are."""
        return self.vessel_share > 0.5

    @property
    def by_columns(self) -> bool:
        """Whether far more pixels of the masks so far hang together by columns than by rows."""
        return self._by_columns > max(2 * self._by_rows, _LEAST_NEIGHBOURS)


_LEAST_NEIGHBOURS, _ENOUGH_NEIGHBOURS = 50, 100_000
_NO_TEXT = ("nan", "none", "null", "na", "<na>")  # what an empty value may be written as
_HINTS = {
    ".": ": write whole numbers, without a decimal point",
    ",": ": separate the numbers by spaces",
    "-": ": starts and lengths are positive",
    "[": ": write the numbers alone, without brackets",
    "(": ": write the numbers alone, without brackets",
}
_DROP_DIGITS_AND_SPACE = dict.fromkeys(map(ord, "0123456789 "))
