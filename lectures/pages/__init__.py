"""Making a page, notes or terminal output of a recorded lecture. Read first: `page.py`."""
