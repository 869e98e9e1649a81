"""The chat page in a real Chromium: streaming, stop, regenerate, sampling controls, token view, errors, phones."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator

import pytest
import torch

from tests.conftest import require_component
from tests.unit.alignment.chat_doubles import endless_chat

WAIT_MS = 60_000


@pytest.fixture(scope="module")
def chat():
    """A slow tiny chat: a token every 15 ms, so that a reply can be watched and stopped."""
    pytest.importorskip("uvicorn")
    with endless_chat(delay_s=0.015) as chat:
        yield chat


@pytest.fixture(scope="module")
def browser() -> Iterator:
    require_component("chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def port(chat, browser) -> Iterator[int]:
    from tests.unit.alignment.page_server import running_page

    with running_page(chat) as port:
        yield port


@pytest.fixture(scope="module")
def window(browser) -> Iterator:
    """The page that the tests share, one after the other: a new one takes the browser a second of work."""
    context = browser.new_context(viewport={"width": 900, "height": 700})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    yield page
    context.close()


@pytest.fixture
def page(window, port) -> Iterator:
    """The page loaded afresh, with nothing stored; the test fails on any error in its console."""
    window.goto(f"http://127.0.0.1:{port}/")
    window.wait_for_selector("#facts:has-text('parameters')")  # the page's policy forbids waiting for a function
    yield window
    errors = window.errors[:]
    window.evaluate("localStorage.clear()")
    window.goto("about:blank")
    window.errors.clear()
    assert errors == []


def ask(page, text: str, *, max_tokens: int, wait: bool = True) -> None:
    """Set the length, send a message, wait for the reply."""
    set_value(page, "max_tokens", max_tokens)
    page.fill("#input", text)
    page.press("#input", "Enter")
    if wait:
        page.wait_for_selector("#send:visible")


def set_value(page, name: str, value: object) -> None:
    """Set a control as a user would, its panel open or not."""
    page.evaluate(
        "([id, value]) => { const box = document.getElementById(id); box.value = value;"
        " box.dispatchEvent(new Event('input')); }",
        [name, str(value)],
    )


def replies(page) -> list[str]:
    return page.locator(".assistant .bubble").all_text_contents()


def bodies(page) -> list[dict]:
    """Records what the page sends to /api/reply from now on."""
    sent: list[dict] = []

    def record(request) -> None:
        if request.url.endswith("/api/reply"):
            sent.append(json.loads(request.post_data))

    page.on("request", record)
    return sent


def test_a_reply_streams_in(page, chat):
    ask(page, "hello", max_tokens=120, wait=False)
    page.wait_for_selector(".streaming .bubble")
    lengths = set()
    while page.locator("#stop").is_visible():
        lengths.add(len(replies(page)[-1]))
        page.wait_for_timeout(100)
    assert len(lengths) > 3  # it grew before our eyes
    assert "120 tokens" in page.locator(".assistant .below").inner_text()
    assert "reached the longest reply" in page.locator(".assistant .below").inner_text()
    assert page.locator(".user .bubble").all_text_contents() == ["hello"]
    assert chat.engine.running == 0


def test_stop_ends_the_reply_here_and_in_the_engine(page, chat):
    ask(page, "hello", max_tokens=480, wait=False)
    while len(replies(page)) == 0 or len(replies(page)[-1]) < 4:
        page.wait_for_timeout(20)
    assert chat.engine.running == 1
    page.click("#stop")
    page.wait_for_selector("#send:visible")
    assert "stopped" in page.locator(".assistant .below").inner_text()
    for _ in range(200):
        if chat.engine.running == 0:
            break
        page.wait_for_timeout(50)
    assert chat.engine.running == 0
    assert 0 < len(replies(page)[-1]) < 480
    ask(page, "and on", max_tokens=3)  # a stopped reply stays in the conversation
    assert len(replies(page)) == 2


def test_regenerate_writes_another_reply_to_the_same_message(page):
    sent = bodies(page)
    ask(page, "hello", max_tokens=30)
    before = replies(page)
    page.click("#regenerate")
    page.wait_for_selector("#send:visible")
    assert replies(page) != before and len(replies(page)) == 1
    assert sent[0]["messages"] == sent[1]["messages"] == [{"role": "user", "content": "hello"}]
    assert sent[0]["seed"] != sent[1]["seed"]


def test_controls_reach_the_model(page):
    sent = bodies(page)
    page.click("#toggle")
    page.fill("#system", "be brief")
    for name, value in {"temperature": 1.5, "top_p": 0.9, "top_k": 7, "seed": 11}.items():
        set_value(page, name, value)
    assert page.locator("#temperature-value").inner_text() == "1.50"
    ask(page, "hello", max_tokens=5)
    first = replies(page)
    assert sent[0] == {
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        "temperature": 1.5, "top_p": 0.9, "top_k": 7, "max_tokens": 5, "seed": 11,
    }  # fmt: skip
    page.click("#fresh")
    assert page.locator(".message").count() == 0 and page.locator("#welcome").is_visible()
    ask(page, "hello", max_tokens=5)
    assert replies(page) == first  # the same seed
    page.reload()
    assert page.input_value("#temperature") == "1.5"  # settings are remembered


def test_token_view_colours_by_mask_and_probability(page, chat):
    ask(page, "hi", max_tokens=20)
    page.click("#view")
    page.wait_for_selector(".user.tokens .token")
    given = page.locator(".user .token").all_text_contents()
    assert given == ["<|bos|>", "<|user_start|>", "h", "i", "<|user_end|>"]
    assert page.locator(".user .token.written").count() == 0
    own = page.locator(".assistant .token.written")
    assert own.count() >= 20 and page.locator(".assistant .token.given").all_text_contents() == ["<|assistant_start|>"]
    written = own.all_text_contents()[:20]
    encode, head = chat.tokenizer.encode, "<|bos|><|user_start|>hi<|user_end|><|assistant_start|>"
    ids = encode(head + "".join(written))
    expected = chat.model(torch.tensor([ids]))[0].detach().double().softmax(dim=-1)
    alphas = []
    for k, chip in enumerate(own.all()[:20]):
        p = float(expected[len(encode(head)) + k - 1, ids[len(encode(head)) + k]])
        assert f"id {ids[len(encode(head)) + k]}, probability " in chip.get_attribute("title")
        shown = re.search(r"probability ([\d.]+) %, written by the model", chip.get_attribute("title"))
        assert float(shown[1]) == pytest.approx(100 * p, rel=0.05, abs=0.06)
        colour = chip.evaluate("(node) => node.style.backgroundColor")
        alphas.append((p, float(re.search(r"([\d.]+)\)$", colour)[1])))
    alphas.sort()
    assert [alpha for _, alpha in alphas] == sorted((alpha for _, alpha in alphas), reverse=True)
    assert len({alpha for _, alpha in alphas}) > 3  # the less likely, the stronger
    assert page.locator("#legend").is_visible()
    page.click("#view")
    page.wait_for_selector(".user:not(.tokens)")
    assert len(replies(page)[0]) == 20


def test_markup_from_a_person_or_model_is_text(page):
    attack = "<img src=x onerror=alert(1)><b>bold</b>"
    ask(page, attack, max_tokens=2)
    assert page.locator(".user .bubble").inner_text() == attack
    assert page.locator(".bubble img, .bubble b").count() == 0


def test_errors_are_shown_and_the_chat_goes_on(page):
    ask(page, "x" * 600, max_tokens=5)
    assert "write a shorter one" in page.locator(".assistant .error").inner_text()
    page.errors.clear()  # the browser itself reports the status 400
    sent = bodies(page)
    ask(page, "hello", max_tokens=5)
    assert len(replies(page)) == 1 and sent[0]["messages"] == [{"role": "user", "content": "hello"}]


def test_keyboard(page):
    page.fill("#input", "one")
    page.press("#input", "Shift+Enter")
    page.type("#input", "two")
    assert page.input_value("#input") == "one\ntwo" and page.locator(".message").count() == 0
    ask(page, "hello", max_tokens=480, wait=False)
    page.wait_for_selector(".streaming .bubble")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send:visible")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width_and_contrast(browser, port, scheme):
    context = browser.new_context(viewport={"width": 360, "height": 640}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.click("#toggle")
    ask(page, "a" * 100, max_tokens=40)
    page.click("#view")
    page.wait_for_selector(".user.tokens .token")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#messages").bounding_box()["height"] > 120
    for selector in ("#facts", ".user .bubble .token", ".assistant .below", "#send", "#toggle"):
        assert contrast(page, selector) >= 4.5, selector
    context.close()


def contrast(page, selector: str) -> float:
    """WCAG contrast of an element's text against the first opaque background behind it."""
    ink, paper = page.eval_on_selector(
        selector,
        """(node) => {
          const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
          let box = node, paper = [0, 0, 0, 0];
          while (box && !(paper.length === 3 || paper[3] === 1)) {
            paper = numbers(getComputedStyle(box).backgroundColor); box = box.parentElement;
          }
          return [numbers(getComputedStyle(node).color), paper];
        }""",
    )
    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
