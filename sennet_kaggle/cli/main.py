"""The command line: arguments → the function of a command, in this room's other files, and its end."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from .console import BAD_INPUT, missing_package, run_command, show
from .hints import hints

try:
    import tyro

    from . import scans, studies, submissions, training, vessels
except ModuleNotFoundError as error:
    print(f"error: {missing_package(error) or error}", file=sys.stderr)
    sys.exit(BAD_INPUT)

# In the order of the help.
_FUNCTIONS = (
    submissions.predict,
    scans.segment,
    submissions.validate,
    submissions.score,
    submissions.sweep,
    submissions.report,
    training.train,
    training.experiments,
    studies.compare,
    studies.ablate,
    studies.compare_planes,
    studies.card,
    studies.score_patches,
    studies.sam_zero_shot,
    studies.sam_prompts,
    scans.stats,
    vessels.vessels,
    submissions.dry_run,
    scans.phantom,
    training.pack,
)
# Taken by every command, anywhere on the line.
_LEVELS = {"--verbose": logging.DEBUG, "--quiet": logging.WARNING}
_DESCRIPTION = """Find blood vessels in 3D HiP-CT scans of human kidneys.

Every command also takes --quiet (warnings, errors and results only) or --verbose (details as well, and the traceback \
of an error); --version says which version this is."""
COMMANDS: dict[str, Callable] = {function.__name__.replace("_", "-"): function for function in _FUNCTIONS}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; bad input is one line on standard error and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    levels = [level for option, level in _LEVELS.items() if option in arguments]
    arguments = [argument for argument in arguments if argument not in _LEVELS]
    installed = Path(sys.argv[0]).stem == "sennet-kaggle"

    def run() -> None:
        if len(levels) > 1:
            raise InputError(f"{' and '.join(_LEVELS)} are opposites, found both: leave one out")
        if arguments == ["--version"]:
            print(f"sennet-kaggle {__version__}")
            return
        try:
            with _registry:
                _app.cli(
                    args=arguments,
                    prog="sennet-kaggle" if installed else "python -m sennet_kaggle",
                    description=_DESCRIPTION,
                    config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
                )
        except SystemExit as error:
            for hint in hints(arguments, COMMANDS, training.EXPERIMENTS) if error.code == BAD_INPUT else ():
                show(hint)
            raise

    return run_command(run, *levels[:1])


_app = tyro.extras.SubcommandApp()
for _function in _FUNCTIONS:
    _app.command(_function)
_registry = tyro.constructors.ConstructorRegistry()


@_registry.primitive_rule
def _json_object(type_info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Lets a dict be given as JSON."""
    if type_info.type_origin is not dict:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda texts: _parse_object(texts[0]),
        is_instance=lambda instance: isinstance(instance, dict),
        str_from_instance=lambda instance: [json.dumps(instance)],
    )


def _parse_object(text: str) -> dict[str, Any]:
    parsed = json.loads(text)
    if not isinstance(parsed, dict):
        raise ValueError("expected a JSON object")
    return parsed
