"""Outputs, disks and consoles."""

import os
import shutil

from . import PREDICT, TRAIN, Case

TO = PREDICT.replace("out.csv", "{}").format
_CARD = "card --data-dir data --checkpoint small.safetensors --volume kidney_1 --output-dir"


def _file(*names):
    def write(folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("precious")

    return write


def _folder(name):
    return lambda folder: (folder / name).mkdir(parents=True)


def _in_kaggle_tree(folder):
    shutil.copytree(folder / "data" / "test" / "kidney_5", folder / "out" / "kaggle" / "input" / "kidney_5")


def _linked_phantom(folder):
    (folder / "out" / "phantom" / "train").mkdir(parents=True)
    (folder / "out" / "phantom" / "train" / "phantom").symlink_to(folder / "data" / "train" / "kidney_1")


def _not_utf8(folder):
    os.rename(folder / "data" / "test" / "kidney_5", os.fsencode(folder / "data" / "test") + b"/kidney_\xff")


TITLE = "Outputs, disks and consoles"
CASES: list[Case] = [
    Case("an output that is a folder", TO("data"), "cannot write data: it is a folder"),
    Case("an output that is a device", TO("/dev/full"), "cannot write /dev/full: it is a device or a pipe"),
    Case("an output in a folder that cannot be written to", TO("/proc/out.csv"), "cannot write /proc/out.csv ("),
    Case("an output below a file", TO("small.safetensors/out.csv"), "no folder small.safetensors, it is a file"),
    Case("an output with a name of 300 letters", TO("a" * 300), "a name may have 255 bytes"),
    Case("an output that is a slice", TO("data/test/kidney_5/images/0000.tif"), "also an input of this command"),
    Case("an output that is the checkpoint", TO("small.safetensors"), "also an input of this command"),
    Case(
        "probabilities kept in a file",
        f"{PREDICT} --save-probability kept",
        "cannot make the folder kept",
        _file("kept"),
    ),
    Case(
        "probabilities kept where a folder has their name",
        f"{PREDICT} --save-probability kept",
        "kept/kidney_5.npy: it is a folder",
        _folder("kept/kidney_5.npy"),
    ),
    Case(
        "probabilities kept in a folder that cannot be written to",
        f"{PREDICT} --save-probability /proc/kept",
        "cannot write /proc/kept (",
    ),
    Case("a training run into a file", TRAIN, "cannot make the folder out", _file("out")),
    Case("a training run below a file", TRAIN.replace("--output-dir out", "--output-dir out/run"), "out", _file("out")),
    Case(
        "a training run where a folder has the checkpoint's name",
        TRAIN,
        "out/checkpoint.safetensors: it is a folder",
        _folder("out/checkpoint.safetensors"),
    ),
    Case("a training cache in a file", f"{TRAIN} --cache-dir cache", "cannot make the folder cache", _file("cache")),
    Case(
        "a comparison into a file",
        "compare --data-dir data --output-dir out --test-volume kidney_1",
        "cannot make the folder out",
        _file("out"),
    ),
    Case("a card into a file", f"{_CARD} out", "cannot make the folder out", _file("out")),
    Case(
        "a sweep into a file",
        "sweep --probability kept --labels data --output-dir out",
        "cannot make the folder out",
        _file("out"),
    ),
    Case("a phantom into a file", "phantom out --shape 2 64 64", "cannot make the folder out", _file("out")),
    Case(
        "a packed checkpoint over its weights",
        "pack --model segformer --weights-path w.safetensors --output w.safetensors",
        "also an input of this command",
        _file("w.safetensors"),
    ),
    Case(
        "a page over the submission that it shows",
        "report --run-dir run --data-dir data --output run/submission.csv",
        "also an input of this command",
        _file("run/submission.csv"),
    ),
    Case(
        "a page in no folder",
        "report --run-dir run --data-dir data --output no/page.html",
        "there is no folder no",
        _file("run/submission.csv"),
    ),
    Case(
        "slices in what a rehearsal would delete",
        "dry-run --data-dir data --output-dir out",
        "out/kaggle/input/kidney_5/images/0000.tif was not made by dry-run",
        _in_kaggle_tree,
    ),
    Case(
        "somebody's submission where a rehearsal would put its own",
        "dry-run --data-dir data --output-dir out",
        "out/submission.csv was not made by dry-run",
        _file("out/submission.csv"),
    ),
    Case(
        "a link where a rehearsal draws its kidney",
        "dry-run --output-dir out",
        "out/phantom/train/phantom was not made by dry-run",
        _linked_phantom,
    ),
    Case("a kidney whose name is not UTF-8", PREDICT, "names that are not UTF-8", _not_utf8),
]
