"""The printable-byte alphabet of GPT-2: one visible character for every byte.

A BPE token is a byte string and often no valid UTF-8 (half a Chinese character), so it cannot stand in a JSON or text
file as it is. GPT-2 writes each byte as one character: the 188 bytes that are visible in Latin-1 stand for
themselves, the other 68 (controls, space, soft hyphen ...) become U+0100, U+0101, ... in byte order. A space is thus
written U+0120.

Source: GPT-2, Radford et al. 2019, `bytes_to_unicode` of the published encoder; handout problem `tokenizer`. Left
out: anything about order. Ties in training compare raw bytes, never these characters. Read next: `tokenizer_files.py`.
"""

from __future__ import annotations


def byte_to_printable() -> dict[int, str]:
    """Map each byte value 0..255 to its printable character.

    >>> table = byte_to_printable()
    >>> table[ord("A")], hex(ord(table[ord(" ")]))
    ('A', '0x120')
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in visible}
    hidden = [byte for byte in range(256) if byte not in table]
    return table | {byte: chr(256 + rank) for rank, byte in enumerate(hidden)}


def printable_to_byte() -> dict[str, int]:
    """The inverse of `byte_to_printable`."""
    return {character: byte for byte, character in byte_to_printable().items()}
