"""Labelled patches."""

import numpy as np

from . import Case

SCORE = "score-patches --patches p.npz --output-dir out --checkpoint small.safetensors"


def _write(**arrays):
    return lambda folder: np.savez(folder / "p.npz", **arrays)


GREY, MASK = np.zeros((2, 3, 16, 16), np.uint8), np.zeros((2, 3, 16, 16), bool)
TITLE = "Labelled patches"
CASES = [
    Case("patches that are missing", SCORE, "p.npz are missing: expected a .npz file with x"),
    Case("patches that are no .npz file", SCORE, "p.npz must be", lambda folder: (folder / "p.npz").write_text("x")),
    Case(
        "patches that are a single array",
        SCORE,
        "found a file of another kind",
        lambda folder: np.save(folder / "a.npy", GREY) or (folder / "a.npy").rename(folder / "p.npz"),
    ),
    Case(
        "patches without labels", SCORE, "must have the arrays x (grey values) and y (labels), found x", _write(x=GREY)
    ),
    Case("patches of another shape than their labels", SCORE, "y (2, 3, 16) bool", _write(x=GREY, y=MASK[..., 0])),
    Case("patches in 16 bits", SCORE, "found x (2, 3, 16, 16) uint16", _write(x=GREY.astype(np.uint16), y=MASK)),
    Case(
        "a patch that is not there",
        f"{SCORE} --patch 1 2",
        "p.npz has 2 patches, 0 to 1, but 2 is asked for",
        _write(x=GREY, y=MASK),
    ),
    Case("a patch named twice", f"{SCORE} --patch 1 1", "1", _write(x=GREY, y=MASK)),
    Case(
        "a threshold of 1 for patches",
        f"{SCORE} --threshold 1",
        "must lie in 0..1 (1 excluded)",
        _write(x=GREY, y=MASK),
    ),
]
