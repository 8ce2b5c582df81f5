"""The colours of every picture and page: of Okabe and Ito's palette (2008), which colour-blind readers tell apart.

On grey slices only those of its colours are used that stay off grey for them: blue and yellow to red, not green or
purple. They differ in lightness as well, so that a print in grey keeps them apart.
"""

FOUND = "#56B4E9"
MISSED = "#D55E00"
FALSE_ALARM = "#F0E442"
PREDICTION = "#0072B2"
"""Where there is no label, or beside it."""
LABEL = "#E69F00"
OTHER = "#CC79A7"
"""A second run's prediction, off the slices."""
FIFTH = "#009E73"
"""Of curves alone, as black is."""
ORGAN = "#8894A3"
SERIES = (PREDICTION, MISSED, FIFTH, LABEL, OTHER, FOUND, "#000000")
"""Curves that stand for no kind of pixel, in order."""


def as_css() -> str:
    """The colours as variables of a style sheet."""
    named = {
        "found": FOUND,
        "missed": MISSED,
        "false-alarm": FALSE_ALARM,
        "prediction": PREDICTION,
        "label": LABEL,
        "other": OTHER,
        "fifth": FIFTH,
        "organ": ORGAN,
    }
    return f":root {{ {' '.join(f'--{name}: {colour};' for name, colour in named.items())} }}\n"
