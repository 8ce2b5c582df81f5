"""Labelled slices → a checkpoint.

In: kidney folders with labels, and the settings of a run. Out: its folder with `checkpoint.safetensors`, `metrics.csv`
and curves. Open `train.py` first.
"""
