"""Scans of any common format → slices, and slices → files of these formats.

In: a folder of slices, a TIFF stack, `.npy`, NIfTI or OME-Zarr. Out: slices (H, W) one at a time with their voxel size,
and masks or probabilities in the same formats, whole or not at all. Open `opening.py` first, then `scan.py`.
"""
