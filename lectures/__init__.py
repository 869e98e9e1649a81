"""Lectures as programs: `lecture_01.py` ... , what they say (`content.py`), and the player around them.

`recording/` runs a lecture and writes down every step; `pages/` makes a web page of the record. Read next: `README.md`.
"""
