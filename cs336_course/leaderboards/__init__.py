"""Leaderboards whose rows are measured, not claimed. Read first: `board.py`."""
