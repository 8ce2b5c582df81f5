"""Masks of vessels → their tree.

In: a mask, slice by slice, with its voxel size. Out: centre lines, lengths, radii, how vessels branch, as tables, SWC,
GraphML and pictures. Open `measure.py` first.
"""
