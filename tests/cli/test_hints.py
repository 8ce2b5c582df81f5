"""Arguments that no command knows: the line that says what may have been meant."""

import subprocess
import sys

import pytest
from conftest import REPOSITORY

import sennet_kaggle
from sennet_kaggle.cli.hints import hints, option_names, suggest
from sennet_kaggle.cli.main import COMMANDS, main
from sennet_kaggle.studies.experiments import EXPERIMENTS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("predcit", "there is no command predcit: did you mean predict?"),
        ("dry_runn", "there is no command dry_runn: did you mean dry-run?"),
        ("train unet-natvie", "there is no experiment unet-natvie: did you mean unet-native?"),
        ("train unet-native --lr 1e-3", "train has no option --lr: did you mean --learning-rate?"),
        ("train unet-native --lr=1e-3", "train has no option --lr: did you mean --learning-rate?"),
        ("train unet-native --bs 2", "train has no option --bs: did you mean --batch-size?"),
        ("train unet-native --weights w", "train has no option --weights: did you mean --weights-path?"),
        ("predict --weights w", "predict has no option --weights: did you mean --checkpoint?"),
        ("predict --data d", "predict has no option --data: did you mean --data-dir?"),
        ("predict --outptu o", "predict has no option --outptu: did you mean --output?"),
        ("predict --gpu", "predict has no option --gpu: did you mean --device?"),
        ("sweep --output o", "sweep has no option --output: did you mean --output-dir?"),
        ("score --nothing-like-it", "score has no option --nothing-like-it"),
    ],
)
def test_a_hint(arguments, expected):
    assert list(hints(arguments.split(), COMMANDS, EXPERIMENTS)) == [f"hint: {expected}"]


@pytest.mark.parametrize(
    "arguments",
    ["", "xyzzy", "predict --data_dir d --no-skip-background --tta d4", "train --help", "train xyzzy", "predict -h --"],
)
def test_no_hint(arguments):
    assert list(hints(arguments.split(), COMMANDS, EXPERIMENTS)) == []


def test_options_are_those_of_the_command_line():
    """The fields of nested settings, too: as the help lists them."""
    for command, options in (("predict", {"checkpoint", "tta"}), ("train", {"cache-dir", "epochs", "roi-size"})):
        assert options <= {*option_names(COMMANDS[command])}
    program = [sys.executable, "-m", "sennet_kaggle", "train", "unet-native", "--help"]
    text = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert [name for name in option_names(COMMANDS["train"]) if f"--{name}" not in text] == []


def test_a_slip_is_nothing_to_a_name_of_another_word():
    assert suggest("xyzzy", ["data-dir", "output"]) is None


def test_the_hint_follows_the_commands_own_message(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "unet-native", "--lr", "1"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.endswith("hint: train has no option --lr: did you mean --learning-rate?\n")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sennet-kaggle {sennet_kaggle.__version__}\n"
