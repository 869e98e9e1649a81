"""Ablations: the course's questions about the model and its training, each answered by runs that differ in one thing.

Reading order: catalogue.py (which runs), experiment.py (one run and its outcome), stages.py (all of them, resumable),
report.py (what they say).
"""
