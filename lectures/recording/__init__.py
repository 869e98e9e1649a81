"""Running a lecture while writing down what it does. Read first: `recorder.py`."""
