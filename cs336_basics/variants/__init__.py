"""One file per alternative to a part of `model.py`, which stays plain."""
