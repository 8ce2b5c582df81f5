"""Arguments that no command knows → what may have been meant."""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

# Other programs' names for options of ours, in order of preference.
_SYNONYMS = {
    "ckpt": ("checkpoint", "init-from"),
    "cuda": ("device",),
    "gpu": ("device",),
    "image-size": ("roi-size",),
    "images": ("data-dir",),
    "input": ("data-dir",),
    "kidney": ("volume",),
    "model": ("checkpoint",),
    "out": ("output", "output-dir"),
    "save": ("output", "output-dir"),
    "weights": ("weights-path", "checkpoint"),
}


def hints(arguments: Sequence[str], commands: Mapping[str, Callable], experiments: Collection[str]) -> Iterator[str]:
    """Explains what of a command line is unknown.

    Args:
        arguments: those after the program's name.
        commands: the functions behind the commands, by name.
        experiments: names that `train` knows.

    Yields:
        A line for an unknown command or experiment, or one for each unknown option.
    """
    command = next(iter(arguments), "")
    if command not in commands:
        yield from _close("command", command, commands)
        return
    name = next(iter(arguments[1:]), "-")
    if command == "train" and not name.startswith("-") and name not in experiments:
        yield from _close("experiment", name, experiments)
        return
    options = [*option_names(commands[command]), "help"]
    known = {name for option in options for name in (option, f"no-{option}")}
    for argument in arguments[1:]:
        name = argument.partition("=")[0].removeprefix("--").replace("_", "-")
        if not argument.startswith("--") or not name or name in known:
            continue
        meant = suggest(name, options)
        yield f"hint: {command} has no option --{name}" + (f": did you mean --{meant}?" if meant else "")


def _close(what: str, name: str, known: Collection[str]) -> Iterator[str]:
    for close in difflib.get_close_matches(name, known, 1):
        yield f"hint: there is no {what} {name}: did you mean {close}?"


def suggest(name: str, options: Sequence[str]) -> str | None:
    """The option that a name may stand for: by another name for it, its initials, a word of it, or a slip of the pen.

    Args:
        name: without dashes before it, such as "lr".
        options: as `name`.
    """
    synonyms = [option for option in _SYNONYMS.get(name, ()) if option in options]
    initials = [option for option in options if "-" in option and name == "".join(w[0] for w in option.split("-"))]
    words = [option for option in options if option.startswith(name) or {*name.split("-")} <= {*option.split("-")}]
    close = difflib.get_close_matches(name, options, 1)
    return next(iter((*synonyms, *initials, *words, *close)), None)


def option_names(function: Callable) -> list[str]:
    """Names of a command's options: its arguments, and the fields of those that are dataclasses."""
    return [name.replace("_", "-") for name in _names(function)]


def _names(annotated: Any) -> Iterator[str]:
    for name, hint in get_type_hints(annotated).items():
        if name == "return":
            continue
        settings = next(_dataclasses(hint), None)
        if settings is None:
            yield name
        else:
            yield from _names(settings)


def _dataclasses(hint: Any) -> Iterator[type]:
    """The dataclasses that an annotation names, alone or among others."""
    if is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for part in get_args(hint):
        yield from _dataclasses(part)
