"""Assignment 4: slug -> (points, generator of cases)."""

from __future__ import annotations

from . import data_duplicates, data_pages, data_texts

PROBLEMS = {
    "extract_text": (3, data_pages.extract_text),
    "language_identification": (6, data_texts.language_identification),
    "mask_pii": (3, data_texts.mask_pii),
    "harmful_content": (6, data_texts.harmful_content),
    "gopher_quality_filters": (3, data_texts.gopher_quality_filters),
    "quality_classifier": (15, data_texts.quality_classifier),
    "exact_deduplication": (3, data_duplicates.exact_deduplication),
    "minhash_deduplication": (8, data_duplicates.minhash_deduplication),
}
