"""Keys of learners: random, shown once, and stored only as a hash.

    stored = HMAC-SHA256(pepper, key)

A random key of 256 bits needs no slow hash. The course's 8-digit student numbers are accepted, because its clients
send them, but whoever reads the database can find these by trying all of them unless KEY_PEPPER, which stands outside
it, is set. Read next: `db/tables.py`.
"""

from __future__ import annotations

import hmac
import re
import secrets

from cs336_scaling.config import key_pepper

STUDENT_NUMBER = re.compile(r"[0-9]{8}")
RANDOM_KEY = re.compile(r"cs336_[A-Za-z0-9_-]{43}")


def new_key() -> str:
    """A fresh key of 256 random bits."""
    return f"cs336_{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """What is stored: 64 hexadecimal digits."""
    return hmac.digest(key_pepper().encode(), b"cs336 key:" + key.encode("utf-8", "replace"), "sha256").hex()


def is_well_formed(key: str) -> bool:
    """Whether a key is a random one of ours or 8 digits."""
    return bool(STUDENT_NUMBER.fullmatch(key) or RANDOM_KEY.fullmatch(key))
