"""A text as a set of hashed n-grams, robust against words written to be missed.

Normalisation undoes what can be undone: case, compatibility forms, digits and signs in the place of letters (sh1t,
a$$), letters set apart (f.u.c.k), letters repeated. Signs that stand for any letter (f*ck, f**k) become "*" and are
left to the n-grams. Features, each hashed into one of `NUM_BUCKETS`:

    words, pairs of neighbours, pairs with a word between them        who is meant: "you ... fool"
    3 to 5 characters of each word with its ends marked                 parts of words: "<f*ck"

A feature counts once however often it occurs. Left out: the model (`logistic_regression.py`, read next).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

NUM_BUCKETS = 1 << 17
_APART = re.compile(r"(?<![\w@$!*])(?:[a-z*@$!0-9][ .\-_]){3,}[a-z](?![^\W_])")
_REPEATED = re.compile(r"([a-z])\1{2,}")
_SIGN = re.compile(r"(?<=[a-z*])[@$!|013457]+(?=[a-z*])|(?<![a-z0-9])[@$!|013457](?=[a-z]{2})|(?<=[a-z])[$@]+")
_LETTERS = str.maketrans("@$!|013457", "asiioieast")
_HIDDEN = re.compile(r"(?<=[a-z])[*#%^&]+|[*#%^&]+(?=[a-z])")
_WORD = re.compile(r"[^\W_*]*\*{1,4}[\w*]*|[^\W_]+(?:'[^\W_]+)?")


def normalize(text: str) -> str:
    """Words in plain spelling between single spaces."""
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    text = _APART.sub(lambda match: re.sub(r"[ .\-_]", "", match[0]), text)
    text = _SIGN.sub(lambda match: match[0].translate(_LETTERS), text)
    text = _HIDDEN.sub(lambda match: "*" * min(4, len(match[0])), text)
    return " ".join(_WORD.findall(_REPEATED.sub(r"\1\1", text)))


def features(text: str) -> np.ndarray:
    """Distinct bucket numbers of a text, int64, sorted."""
    plain = normalize(text)
    if not plain:
        return np.empty(0, np.int64)
    letters = np.frombuffer(f" {plain} ".encode("utf-8", "replace"), np.uint8)
    return np.unique(_kernel()(letters, NUM_BUCKETS))


def feature_lists(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Features of many texts one after another, and where each text's begin (one longer than `texts`)."""
    lists = [features(text) for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
    return (np.concatenate(lists) if lists else np.empty(0, np.int64)), starts


@functools.cache
def _kernel() -> Callable[..., Any]:
    """The compiled loop over letters."""
    from cs336_basics.tokenization.compilation import stored
    from cs336_data.classifiers.compiled_ngrams import hashed_ngrams

    return stored(hashed_ngrams)
