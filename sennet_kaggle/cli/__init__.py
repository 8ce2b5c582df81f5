"""The command line.

In: arguments. Out: calls of the other rooms, and how they end: a line and an exit status. Open `main.py` first.
"""
