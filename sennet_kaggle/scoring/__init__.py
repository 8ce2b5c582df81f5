"""How good masks are.

In: a submission and labels, or another submission. Out: the competition's Surface Dice, Dice, and more, per slice and
pooled. Open `score.py` first.
"""
