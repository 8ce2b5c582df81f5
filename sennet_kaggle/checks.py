"""Checks of settings that more than one makes: types, ranges, finite numbers, seeds, nothing named twice."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import lt
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import InputError

LARGEST = (2 - 2**-23) * 2.0**127
"""The largest number of float32, in which models are trained and run."""


def check_values(settings: Any) -> None:
    """Compares a dataclass's values with its annotations; the command line does so itself, overrides and cards do not.

    Raises:
        InputError: a value that is none of its field's choices, or of another type.
    """
    for name, hint in get_type_hints(type(settings)).items():
        _check_type(name, getattr(settings, name), hint)


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], owner: str) -> None:
    """Compares arguments, which may come from JSON (lists for tuples), with a function's annotations.

    Args:
        function: all of its parameters are annotated, and named as in `arguments`.
        arguments: some or all of them.
        owner: whose arguments they are, for the message.

    Raises:
        InputError: an argument of another type.
    """
    hints = get_type_hints(function)
    for name, value in arguments.items():
        _check_type(f"{owner}: {name}", value, hints[name])


def check_finite(settings: Any) -> None:
    """Raises InputError where a number of a dataclass, or of a tuple in it, is infinite in float32 or not a number."""
    for name, value in vars(settings).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(abs(number) <= LARGEST for number in numbers if isinstance(number, int | float)):
            raise InputError(f"{name} must hold finite numbers only, of float32, got {value}")


def check_numbers(
    settings: Any,
    *,
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    at_most: Mapping[str, int] = {},  # noqa: B006 (only read)
    shares: Sequence[str] = (),
    at_least_1: Sequence[str] = (),
) -> None:
    """Compares numbers of a dataclass with their ranges.

    Args:
        settings: the dataclass; where a field is None, it is passed over. NaN is for `check_finite` to find, but in
            `shares`, which refuses it.
        positive: fields that must be above 0.
        not_negative: fields that must be 0 or more.
        at_most: fields, with the most that each may be.
        shares: fields that must lie in 0..1, 1 excluded.
        at_least_1: fields that must be 1 or more.

    Raises:
        InputError: a number out of range; the first, in the order of the arguments.
    """
    _refuse(settings, positive, "be positive", lambda value: value <= 0)
    _refuse(settings, not_negative, "not be negative", lambda value: value < 0)
    for name, most in at_most.items():
        _refuse(settings, (name,), f"be at most {most}", partial(lt, most))
    _refuse(settings, shares, "lie in 0..1 (1 excluded)", lambda value: not 0 <= value < 1)
    _refuse(settings, at_least_1, "be at least 1", lambda value: value < 1)


def check_scales(scales: Iterable[Any]) -> None:
    """Raises InputError for factors by which no volume is resized."""
    for scale in scales:
        if type(scale) not in (int, float) or not 0.1 <= scale <= 10:
            raise InputError(f"scale must be a number in 0.1..10, got {scale!r}")


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises InputError for seeds that not every source of chance takes."""
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise InputError(f"seed must lie in 0..{2**32 - 1}, got {seed}")


def check_distinct(name: str, values: Sequence[Any]) -> None:
    """Raises InputError where something is named twice."""
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise InputError(f"{name} must be distinct, found {twice[0]} twice: name it once")


def _refuse(settings: Any, names: Sequence[str], rule: str, is_wrong: Callable[[Any], bool]) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and is_wrong(value):
            raise InputError(f"{name} must {rule}, got {value}")


def _check_type(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise InputError(f"{name} must be one of {', '.join(get_args(hint))}, got {value!r}"[:200])
    if not _fits(value, hint):
        kind = str(hint) if get_args(hint) else hint.__name__
        kind = kind.replace(", ...", "").replace("collections.abc.Sequence", "list").replace("pathlib.", "")
        raise InputError(f"{name} must be {kind.replace('typing.', '')}, found {repr(value)[:100]}")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or origin is Literal:
        return hint is Any or value in arguments
    if origin in (UnionType, Union):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        any_length = arguments[-1] is Ellipsis
        return (
            isinstance(value, tuple)
            and (any_length or len(value) == len(arguments))
            and all(_fits(item, arguments[0]) for item in value)
        )
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if hint is Path:
        return isinstance(value, Path)
    return type(value) is hint or (hint is float and type(value) is int)
