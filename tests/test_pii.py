"""Problem mask_pii: e-mail addresses, telephone numbers, IP addresses."""

from __future__ import annotations

import pytest

EMAIL, PHONE, IP = "|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||", "|||IP_ADDRESS|||"


@pytest.mark.parametrize(
    ("text", "masked", "count"),
    [
        ("Write to jo.smith@mail.example.org today.", f"Write to {EMAIL} today.", 1),
        ("It was a_b+news@example.com.", f"It was {EMAIL}.", 1),
        ("x@example.com, y@example.co.uk", f"{EMAIL}, {EMAIL}", 2),
        (f"{EMAIL} stays, z9@example.net goes", f"{EMAIL} stays, {EMAIL} goes", 1),
        ("no @mention and no a@b here", "no @mention and no a@b here", 0),
    ],
)
def test_mask_emails(adapters, text, masked, count):
    assert adapters.run_mask_emails(text) == (masked, count)


@pytest.mark.parametrize("number", ["2125550134", "(212)-555-0134", "(212) 555 0134", "212-555-0134", "(212) 555-0134"])
@pytest.mark.parametrize("frame", ["Call {} before noon.", "{}", "our office: {}, second floor"])
def test_mask_phones(adapters, number, frame):
    assert adapters.run_mask_phone_numbers(frame.format(number)) == (frame.format(PHONE), 1)


@pytest.mark.parametrize("text", ["order 20240117093055", "on 2024-01-17", "pi is 3.1415926535", "10.0.200.1000"])
def test_numbers_that_are_no_phones(adapters, text):
    assert adapters.run_mask_phone_numbers(text) == (text, 0)


@pytest.mark.parametrize("address", ["192.0.2.146", "8.8.8.8", "255.255.255.255", "10.0.0.1"])
@pytest.mark.parametrize("frame", ["The server is {}.", "{}", "from {} to the gate"])
def test_mask_ips(adapters, address, frame):
    assert adapters.run_mask_ips(frame.format(address)) == (frame.format(IP), 1)


@pytest.mark.parametrize("text", ["256.1.1.1", "1.2.3", "version 1.2.3.4.5"])
def test_numbers_that_are_no_ips(adapters, text):
    assert adapters.run_mask_ips(text) == (text, 0)
