"""Blood vessels in HiP-CT scans of human kidneys: train, score, submit (Kaggle's SenNet + HOA)."""

__version__ = "0.1.0"
