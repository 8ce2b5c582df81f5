"""Several trainings or models beside one another.

In: named experiments. Out: tables and figures that compare them on the same slices. Open `compare.py` first.
"""
