"""One judge per kind of board: it questions the participant's code or data and returns a `Measurement`.

    judge(judging) -> Measurement        judging holds the talk, the artifacts, the division's settings, the randomness

Read first: `judging.py`, `loss.py`.
"""
