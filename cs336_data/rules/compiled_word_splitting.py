"""`split_chunk` of `word_splitting.py`, compiled: the same rules for most chunks, with sets and patterns as tables.

Words are stretches of their chunk, one after the other, so all that is made are the places where they end. Which
characters are a prefix or a suffix, and which exceptions there are, comes from the readable form (`ascii_tables`);
a chunk that is not ASCII is left to that form. Read next: `page.py`.
"""

# The types of kernels are numba's affair.
# mypy: no-check-untyped-defs
from __future__ import annotations

from cs336_basics.tokenization.compiled_kernel import kernel

PREFIX, SUFFIX, BEFORE_DOT, LOWER, UPPER, DIGIT, QUOTE, SCHEME = (1 << i for i in range(8))
SYMBOL, HAS_LETTER = 1, 2  # the bits of a word, as in `page.py`
LETTER, ALNUM = LOWER | UPPER, LOWER | UPPER | DIGIT
NUMBER = 128
"""Column of a tree of strings with the number of the string that ends at a node, plus one; before it, a node per byte."""


@kernel
def find(text, begin, end, tree):
    """The number of text[begin:end] in a tree of strings, -1 if it is not there."""
    node = 0
    for i in range(begin, end):
        node = tree[node, text[i]]
        if node == 0:
            return -1
    return tree[node, NUMBER] - 1


@kernel
def all_are(text, begin, end, classes, kinds):
    """Whether all characters are of one of the kinds."""
    for i in range(begin, end):
        if not classes[text[i]] & kinds:
            return False
    return True


@kernel
def prefix_end(text, begin, end, classes, currencies):
    """Where the prefix of text[begin:end] ends; `begin` if there is none."""
    stop = begin + 1
    if text[begin] == ord("+"):
        return begin if stop < end and classes[text[stop]] & DIGIT else stop
    if classes[text[begin]] & PREFIX:
        return stop
    while stop < end and text[stop] == text[begin] == ord("."):
        stop += 1
    if stop > begin + 1:
        return stop
    for length in (2, 3):
        if begin + length <= end and find(text, begin, begin + length, currencies) >= 0:
            return begin + length
    return begin


@kernel
def suffix_start(text, begin, start, end, classes, units, windows):
    """Where the suffix of text[begin:end] begins, from `start` on; `end` if there is none."""
    last = text[end - 1]
    dots = end
    while dots > begin and text[dots - 1] == ord("."):
        dots -= 1
    for place in range(max(start, end - windows[1 if end - dots > 1 else 0]), end):
        before = classes[text[place - 1]] if place > begin else 0
        if place >= dots and end - place > 1:
            return place
        if before & DIGIT and find(text, place, end, units) >= 0:
            return place
        if end - place == 2 and text[place] == ord("'") and (last == ord("s") or last == ord("S")):
            return place
        if end - place == 1:
            if classes[last] & SUFFIX:
                return place
            capitals = before & UPPER and place - 1 > begin and classes[text[place - 2]] & UPPER
            if last == ord(".") and (before & BEFORE_DOT or capitals):
                return place
    return end


@kernel
def is_number(text, begin, end, low, high, padded):
    """Whether text[begin:end] is a part of an address: `padded` ones may begin with a zero if they have two digits."""
    length, value = end - begin, 0
    for i in range(begin, end):
        value = 10 * value + text[i] - 48
    if padded and length <= 2:
        return length > 0
    return 0 < length <= 3 and text[begin] != 48 and low <= value <= high


@kernel
def is_tail(text, place, end):
    """Whether what follows a host is nothing, a port, a path, or both."""
    if place < end and text[place] == ord(":"):
        stop = place + 1
        while stop < end and 48 <= text[stop] <= 57:
            stop += 1
        if not 3 <= stop - place <= 6:
            return False
        place = stop
    return place == end or text[place] == ord("/") or text[place] == ord("?") or text[place] == ord("#")


@kernel
def is_host(text, begin, end, classes):
    """Whether text[begin:end] is a host with what may follow it: four numbers, or labels and then letters, with dots."""
    place, label, parts, numeric = begin, begin, 0, True
    while True:
        while place < end and (classes[text[place]] & ALNUM or text[place] == ord("_") or text[place] == ord("-")):
            place += 1
        digits = all_are(text, label, place, classes, DIGIT)
        if place == end or text[place] != ord("."):
            break
        edges = place > label and classes[text[label]] & ALNUM and classes[text[place - 1]] & ALNUM
        if not edges or place - label > 64:
            return False
        low, high = (1, 223) if parts == 0 else (0, 255)
        numeric = numeric and digits and is_number(text, label, place, low, high, parts > 0)
        parts, place = parts + 1, place + 1
        label = place
    if numeric and digits and parts == 3 and is_number(text, label, place, 1, 254, False):
        return is_tail(text, place, end)
    small = 2 <= place - label <= 63 and all_are(text, label, place, classes, LOWER)
    return parts > 0 and small and is_tail(text, place, end)


@kernel
def is_address(text, begin, end, classes):
    """Whether text[begin:end] is an address: a host, perhaps after a scheme, perhaps after a user's name and @."""
    dots = 0
    for i in range(begin, end):
        dots += text[i] == ord(".")
    if dots == 0:
        return False
    if is_host(text, begin, end, classes):
        return True
    scheme = begin
    while scheme < end and classes[text[scheme]] & SCHEME:
        scheme += 1
    if begin + 2 <= scheme and scheme + 3 < end and text[scheme] == ord(":"):
        if text[scheme + 1] == ord("/") and text[scheme + 2] == ord("/") and is_host(text, scheme + 3, end, classes):
            return True
    for i in range(begin + 1, end):
        if text[i] == ord("@") and is_host(text, i + 1, end, classes):
            return True
    return False


@kernel
def infix_end(text, begin, i, end, classes):
    """Where the mark ends that stands at i within text[begin:end] and cuts it; i if none does."""
    mark, after = text[i], classes[text[i + 1]] if i + 1 < end else 0
    before = classes[text[i - 1]] if i > begin else 0
    if mark == ord("."):
        stop = i + 1
        while stop < end and text[stop] == mark:
            stop += 1
        if stop > i + 1 or (before & (LOWER | QUOTE) and after & (UPPER | QUOTE)):
            return stop
        return i
    arithmetic = mark == ord("+") or mark == ord("-") or mark == ord("*") or mark == ord("^")
    if arithmetic and before & DIGIT and (after & DIGIT or (i + 1 < end and text[i + 1] == ord("-"))):
        return i + 1
    if mark == ord(",") and before & LETTER and after & LETTER:
        return i + 1
    if not before & ALNUM:
        return i
    if mark == ord("-"):
        for length in (3, 2, 1):
            stop, dashes = i + length, True
            for k in range(i, min(stop, end)):
                dashes = dashes and text[k] == mark
            if dashes and stop < end and classes[text[stop]] & LETTER:
                return stop
    joins = mark == ord("~") or mark == ord(":") or mark == ord("<") or mark == ord(">") or mark == ord("=")
    return i + 1 if (joins or mark == ord("/")) and after & LETTER else i


@kernel
def add_exception(begin, number, cuts, ends, count):
    """Enter the words of an exception that begins at `begin`; returns how many words there are then."""
    for k in range(cuts.shape[1]):
        if cuts[number, k]:
            ends[count] = begin + cuts[number, k]
            count += 1
    return count


@kernel
def cut_infixes(text, begin, end, classes, ends, count):
    """Cut at marks within a word; a mark at the very beginning does not cut."""
    offset, i = begin, begin
    while i < end:
        stop = infix_end(text, begin, i, end, classes)
        if stop > i > begin:
            if i > offset:
                ends[count], count = i, count + 1
            ends[count], count = stop, count + 1
            offset = stop
        i = max(stop, i + 1)
    if offset < end:
        ends[count], count = end, count + 1
    return count


@kernel
def strip_affixes(text, begin, end, tables, ends, count, after):
    """Take marks off until nothing changes or an exception is left; (begin, end) of what is left, words before, after."""
    classes, exceptions, _, units, currencies, windows = tables
    size, num_after = -1, 0
    while begin < end and end - begin != size and find(text, begin, end, exceptions) < 0:
        size = end - begin
        start, stop = prefix_end(text, begin, end, classes, currencies), end
        if start == begin or find(text, start, end, exceptions) < 0:
            stop = suffix_start(text, begin, start, end, classes, units, windows)
            if stop < end and find(text, begin, stop, exceptions) >= 0:
                start = begin
        if start > begin:
            ends[count], count = start, count + 1
        if stop < end:
            after[num_after], num_after = end, num_after + 1
        begin, end = start, stop
    return begin, end, count, num_after


@kernel
def join_exceptions(text, begin, exceptions, cuts, ends, first, count, words):
    """Put neighbours together again that form an exception; the words are those from `first` on."""
    num_words, i = count - first, 0
    for k in range(num_words):
        words[k] = ends[first + k]
    count = first
    while i < num_words:
        j, number = min(num_words, i + 5), -1
        while j > i + 1:
            number = find(text, begin, words[j - 1], exceptions)
            if number >= 0:
                break
            j -= 1
        if number >= 0:
            count = add_exception(begin, number, cuts, ends, count)
            i = j
        else:
            ends[count], count, i = words[i], count + 1, i + 1
        begin = ends[count - 1]
    return count


@kernel
def split_one(text, begin, end, tables, max_chunk, ends, first, scratch):
    """Enter the ends of the words of a chunk into `ends` from `first` on; returns how many words there are then."""
    classes, exceptions, cuts = tables[0], tables[1], tables[2]
    number = find(text, begin, end, exceptions)
    if number >= 0:
        return add_exception(begin, number, cuts, ends, first)
    plain = all_are(text, begin, end, classes, LETTER) or all_are(text, begin, end, classes, DIGIT)
    if plain or end - begin > max_chunk:
        ends[first] = end
        return first + 1
    left, right, count, num_after = strip_affixes(text, begin, end, tables, ends, first, scratch)
    number = find(text, left, right, exceptions)
    if number >= 0:
        count = add_exception(left, number, cuts, ends, count)
    elif left < right:
        if all_are(text, left, right, classes, ALNUM) or is_address(text, left, right, classes):
            ends[count], count = right, count + 1
        else:
            count = cut_infixes(text, left, right, classes, ends, count)
    for k in range(num_after):
        ends[count], count = scratch[num_after - 1 - k], count + 1
    return join_exceptions(text, begin, exceptions, cuts, ends, first, count, scratch)


@kernel
def split_chunks(text, places, first, last, tables, max_chunk, ends, count, starts, base, scratch):
    """Split the chunks text[places[i] : places[i + 1]], i = first ... last - 1, up to one that is not ASCII.

    Where words end goes into `ends` from `count` on, how many there are up to a chunk, plus `base`, into `starts`;
    scratch: room for as many numbers as a chunk has bytes. Returns (the chunk at which it stopped, count).
    """
    for chunk in range(first, last):
        begin, end = places[chunk], places[chunk + 1]
        for i in range(begin, end):
            if text[i] >= 0x80:
                return chunk, count
        count = split_one(text, begin, end, tables, max_chunk, ends, count, scratch)
        starts[chunk + 1] = base + count
    return last, count


@kernel
def words_of_chunks(chunks, starts, words, found):
    """Enter the words of chunks into `found`; those of chunk i are words[starts[i] : starts[i + 1]]."""
    count = 0
    for chunk in chunks:
        for k in range(starts[chunk], starts[chunk + 1]):
            found[count] = words[k]
            count += 1
    return count


@kernel
def count_kinds(kinds, lengths):
    """(words that are not only punctuation, their characters, words with a letter, all bits that occur)."""
    proper = characters = with_letter = present = 0
    for i in range(len(kinds)):
        if not kinds[i] & SYMBOL:
            proper, characters = proper + 1, characters + lengths[i]
        with_letter += 1 if kinds[i] & HAS_LETTER else 0
        present |= kinds[i]
    return proper, characters, with_letter, present
