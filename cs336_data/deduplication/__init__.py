"""Removing what occurs twice: lines, documents, and documents that are nearly the same.

Reading order: `exact_lines.py`, `exact_documents.py`, `bloom.py`; then `shingles.py`, `minhash.py`, `lsh.py`,
`union_find.py`, `near_duplicates.py`, and for the speed `compiled_shingles.py` and `compiled_clusters.py`.
"""
