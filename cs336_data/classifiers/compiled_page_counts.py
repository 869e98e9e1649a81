"""What `page_features.py` counts in a text, in one compiled pass over its characters.

Read next: `page_model.py`.
"""

# The types of kernels are numba's affair.
# mypy: no-check-untyped-defs
from __future__ import annotations

import numpy as np

from cs336_basics.tokenization.compiled_kernel import kernel

ALPHABETIC, UPPER, DIGIT, OTHER, OF_WORD, SPACE, STRANGE, KNOWN = (1 << i for i in range(8))
"""Bits of a character; its lower-case form stands above them. Those that are strange have no simple one."""
WORDS, CHARACTERS, CAPITALIZED, DISTINCT, SENTENCES, LETTERS, UPPERS, DIGITS, OTHERS, GROUPS = range(10)
"""Places in the result; from GROUPS on a count per group of words."""
_APOSTROPHES = (0x27, 0x2019)


@kernel
def word_end(codes, i, facts):
    """Where the word ends that begins at i: letters, perhaps an apostrophe and letters again."""
    apostrophe = False
    while i < len(codes):
        if facts[codes[i]] & OF_WORD:
            i += 1
        elif not apostrophe and codes[i] in _APOSTROPHES and i + 1 < len(codes) and facts[codes[i + 1]] & OF_WORD:
            apostrophe, i = True, i + 1
        else:
            break
    return i


@kernel
def same_words(codes, one, other, length, facts):
    """Whether two words are the same but for upper case."""
    for k in range(length):
        if facts[codes[one + k]] >> 8 != facts[codes[other + k]] >> 8:
            return False
    return True


@kernel
def count_word(codes, begin, end, facts, tree, groups, num_first, slots, result):
    """Count a word; the first `num_first` are kept in `slots`, (begin, length) or (0, 0), by their hash."""
    node, value = 0, np.uint64(0)
    for i in range(begin, end):
        code = facts[codes[i]] >> 8
        value = (value ^ np.uint64(code)) * np.uint64(0x9E3779B97F4A7C15)
        node = tree[node, code - 97] if node >= 0 and 97 <= code <= 122 else -1
    if node >= 0:
        for group in range(groups.shape[1]):
            result[GROUPS + group] += groups[node, group]
    if result[WORDS] < num_first:
        mask = np.uint64(len(slots) - 1)
        slot = (value >> np.uint64(32)) & mask
        while slots[slot, 1]:
            if slots[slot, 1] == end - begin and same_words(codes, begin, slots[slot, 0], end - begin, facts):
                break
            slot = (slot + np.uint64(1)) & mask
        if slots[slot, 1] == 0:
            slots[slot, 0], slots[slot, 1] = begin, end - begin
            result[DISTINCT] += 1
    result[WORDS] += 1
    result[CHARACTERS] += end - begin
    result[CAPITALIZED] += 1 if facts[codes[begin]] & UPPER else 0


@kernel
def count_page(codes, facts, tree, groups, num_first, slots, result):
    """Fill `result`, zeros before; returns -1, or the first place with a character that is strange or not known."""
    for i in range(len(codes)):
        bits = facts[codes[i]]
        if bits & STRANGE or not bits & KNOWN:
            return i
        result[LETTERS] += bits & ALPHABETIC
        result[UPPERS] += bits & UPPER and 1
        result[DIGITS] += bits & DIGIT and 1
        result[OTHERS] += bits & OTHER and 1
        ends = codes[i] == 33 or codes[i] == 46 or codes[i] == 63  # ! . ?
        if ends and (i + 1 == len(codes) or facts[codes[i + 1]] & SPACE):
            result[SENTENCES] += 1
    i = 0
    while i < len(codes):
        if facts[codes[i]] & OF_WORD:
            end = word_end(codes, i, facts)
            count_word(codes, i, end, facts, tree, groups, num_first, slots, result)
            i = end
        else:
            i += 1
    return -1
