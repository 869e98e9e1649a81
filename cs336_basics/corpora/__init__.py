"""Corpora: stories of known entropy, the Python library's sources, downloads. Start with `stories.py`."""
