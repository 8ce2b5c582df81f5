"""Pictures and pages.

In: volumes, masks, scores. Out: PNG figures, an HTML page of a run, a page about checkpoints. Open `report.py` first.
"""
