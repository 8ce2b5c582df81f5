"""The order of slices by the numbers in their names, and where one does not follow another."""

import re
from collections.abc import Sequence
from itertools import pairwise


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Sort key under which numbers in a name sort as numbers: 2 before 10, and zero-padded names as ever."""
    parts = re.split("([0-9]+)", name)  # text and digits take turns, so that only like is compared with like
    digits = [part.lstrip("0") for part in parts[1::2]]  # may be longer than int() takes
    parts[1::2] = [(len(number), number) for number in digits]
    return parts, name


def consecutive_runs(stems: Sequence[str]) -> list[list[str]]:
    """Splits the slices of a kidney where one does not follow the other.

    Args:
        stems: file names without their suffix, in natural order.

    Returns:
        The stems, unbroken while a single number in them, the same in each, goes up by 1.
    """
    runs = [[stem] for stem in stems[:1]]
    for before, after in pairwise(stems):
        if _follows(before, after):
            runs[-1].append(after)
        else:
            runs.append([after])
    return runs


def _follows(before: str, after: str) -> bool:
    """Whether two names differ in one number alone, by 1."""
    parts = [re.split("([0-9]+)", stem) for stem in (before, after)]
    parts = [[part.lstrip("0") if i % 2 else part for i, part in enumerate(each)] for each in parts]
    changed = [i for i, (a, b) in enumerate(zip(*parts, strict=False)) if a != b]
    if len(parts[0]) != len(parts[1]) or len(changed) != 1 or changed[0] % 2 == 0:
        return False
    a, b = (each[changed[0]] or "0" for each in parts)
    return max(len(a), len(b)) < 20 and int(b) - int(a) == 1
