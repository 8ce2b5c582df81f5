"""What the colours of Okabe and Ito's palette stand for in every picture and page.

On grey slices only those of its colours are used that stay off grey for them: blue and yellow to red, not green or
purple. They differ in lightness as well, so that a print in grey keeps them apart.
"""

from ..rendering import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILLION, YELLOW

FOUND, MISSED, FALSE_ALARM = SKY_BLUE, VERMILLION, YELLOW
PREDICTION = BLUE
"""Where there is no label, or beside it."""
LABEL = ORANGE
OTHER = PURPLE
"""A second run's prediction, off the slices."""
FIFTH = GREEN
"""Of curves alone, as black is."""
ORGAN = "#8894A3"


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
