"""What runs on Kaggle: every test slice gets a row, whatever happens.

In: the attached competition and checkpoints. Out: `submission.csv` and `submission.json`. Open `submit.py` first, then
`scheduler.py`.
"""
