"""Slices → probabilities and masks, through one model or several.

In: a volume and predictors. Out: probabilities (H, W) float32 in 0..1, and masks, slice by slice. Open `predict.py`
first, then `predictor.py`.
"""
