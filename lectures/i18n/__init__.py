"""Message catalogues of the lectures. Read next: `catalogue.py`."""
