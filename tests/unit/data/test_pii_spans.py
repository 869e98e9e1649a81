"""Personal data: audit mode, formats, digit guards, time on hostile input."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_data.document import Document
from cs336_data.pii import (
    _PATTERNS,
    MASKS,
    PiiFilter,
    find_spans,
    mask_document,
    mask_emails,
    mask_ips,
    mask_phone_numbers,
    mask_pii,
)

TEXT = "Ask ann@example.org or (212) 555-0134; the host 192.0.2.7 answers, +44 20 7946 0958 does not."


def test_audit_lists_spans_and_changes_nothing():
    spans = find_spans(TEXT)
    assert [(span.kind, span.text) for span in spans] == [
        ("email", "ann@example.org"), ("phone", "(212) 555-0134"), ("ip", "192.0.2.7"), ("phone", "+44 20 7946 0958"),
    ]  # fmt: skip
    assert all(TEXT[span.start : span.end] == span.text for span in spans)


def test_mask_pii():
    masked, counts = mask_pii(TEXT)
    assert masked == (
        f"Ask {MASKS['email']} or {MASKS['phone']}; the host {MASKS['ip']} answers, {MASKS['phone']} does not."
    )
    assert counts == {"email": 1, "phone": 2, "ip": 1}


@pytest.mark.parametrize(
    "number",
    ["212.555.0134", "+1 212 555 0134", "+1-212-555-0134", "1-800-555-0199", "+1 (212) 555-0134", "+12125550134",
     "+49 30 901820", "+33 1 23 45 67 89", "+44 (0)20 7946 0958", "212\u00a0555\u00a00134"],
)  # fmt: skip
def test_phone_formats(number):
    assert mask_phone_numbers(f"tel: {number}.") == (f"tel: {MASKS['phone']}.", 1)


@pytest.mark.parametrize(
    "text",
    ["20240117093055", "1700000000", "2024-01-17 09:30:55", "978-3-16-148410-0", "4111 1111 1111 1111", "1,234,567,890",
     "0.2125550134", "192.168.100.200", "a2125550134b", "x-2125550134-7", "12345678901234567890"],
)  # fmt: skip
def test_numbers_that_are_no_phones(text):
    assert mask_phone_numbers(text) == (text, 0)


@pytest.mark.parametrize("text", ["v1.2.3.4", "1.2.3.4.5", "1.2.3.400", "300.1.1.1", "1.2.3.4a", "01.02.03.04"])
def test_numbers_that_are_no_addresses(text):
    assert mask_ips(text) == (text, 0)


@pytest.mark.parametrize("text", ["a@b", "@name", "a@b.", "user@host:22", "a@1.2", "me@@x.com"])
def test_what_is_no_email(text):
    assert mask_emails(text) == (text, 0)


@pytest.mark.parametrize("text", ["m\u00fcller@b\u00fccher.example", "a.b-c_d+e%f@x-y.museum", "o'neill@example.ie"])
def test_unusual_emails(text):
    assert mask_emails(f"<{text}>") == (f"<{MASKS['email']}>", 1)


@settings(max_examples=200, derandomize=True)
@given(st.text(alphabet="a1.@+-() 0927:\n", max_size=80))
def test_masking_is_stable(text):
    """Spans lie in order and apart; masking them by hand gives the same; masking twice changes nothing."""
    spans = find_spans(text)
    assert all(one.end <= two.start for one, two in zip(spans, spans[1:], strict=False))
    by_hand = text
    for span in reversed(spans):
        by_hand = by_hand[: span.start] + MASKS[span.kind] + by_hand[span.end :]
    masked, counts = mask_pii(text)
    assert masked == by_hand and sum(counts.values()) == len(spans)
    for mask in MASKS.values():
        assert mask_pii(mask)[0] == mask


def test_nothing_is_missed_where_no_hit_was_expected():
    """Patterns are tried at few places only; tried everywhere they find the same."""
    rng, found = random.Random(0), Counter()
    pieces = ["212", "555", "0134", "(212) ", "+1 ", "+44 20 ", " 7946 0958", "1.2.3.4", "192.168.", "@", "ann@b.org", "ann",
              " ", "b.org", "  ", ".", "-", "1", "\u00a0", "(0)", ")", "x" * 70, "9", "\n", "255", "_", ":", "/", "\u0663"]  # fmt: skip
    for _ in range(5000):
        text, expected = "".join(rng.choices(pieces, k=rng.randrange(20))), []
        for kind, pattern in _PATTERNS.items():
            expected += [
                (kind, *match.span()) for match in pattern.finditer(text)
                if all(match.end() <= start or end <= match.start() for other, start, end in expected if other != kind)
            ]  # fmt: skip
        spans = [(span.kind, span.start, span.end) for span in find_spans(text)]
        assert sorted(spans) == sorted(expected), text
        found.update(kind for kind, _, _ in spans)
    assert min(found.values()) > 100 and len(found) == 3


@pytest.mark.parametrize("piece", ["a.", "1", "+1 ", "212 ", "@a.b.", "+2 3", "1 (", "a@b.cd ", "a@", "((", "1.1.1."])
def test_hostile_repetition_takes_linear_time(piece):
    started = time.process_time()
    find_spans(piece * (300_000 // len(piece)))
    assert time.process_time() - started < 5


def test_document_and_filter():
    document = mask_document(Document("1", "", TEXT * 2))
    assert document.metadata["pii"] == {"email": 2, "phone": 4, "ip": 2}
    assert PiiFilter()(document) == "too_much_pii" and PiiFilter(max_spans=8)(document) is None
    assert PiiFilter()(Document("2", "", TEXT)) is None, "four hits are allowed"
    assert PiiFilter(max_spans=3)(Document("3", "", TEXT)) == "too_much_pii"
