"""Masks ↔ the text that is handed in.

In: masks (H, W) bool by slice id. Out: `submission.csv`, checked, and beside it the JSON that says what made it. Open
`rle.py` first.
"""
