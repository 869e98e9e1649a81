"""Pages in a real browser, opened from the file system with the network cut."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from lectures.cli import build
from lectures.pages.page import make_page
from lectures.recording.recorder import Limits
from lectures.recording.session import record_here

LECTURE = r'''
"""A lecture for tests."""
import torch
from lectures.content import exercise, graph, image, link, make_graph, note, plot, quiz, text

def main():
    text("# Title with $x^2$")
    text("Unmistakable prose, "), link(title="Paper", authors=["A. Ox"], url="https://example.org"), text(".")
    note("only for the presenter")
    loop()
    tensors()
    text("## Last section")
    print("printed at the end")

def loop():
    text("## Loop")
    for i in range(3):  # @inspect i
        text("turn {i}", i=i)
        inner(i)

def inner(n):  # @inspect n
    doubled = 2 * n  # @inspect doubled
    return doubled

def tensors():
    text("## Tensors")
    x = torch.arange(200.0).reshape(10, 20)  # @inspect x
    y = x.T  # @inspect y
    if x is None:
        never = 1
    quiz("Why $y$?", "Because.")
    exercise("Do it.", function=inner, test="tests/test_model.py")
    graph(make_graph([{"data": {"id": "a"}}, {"data": {"id": "b"}}], [{"data": {"source": "a", "target": "b"}}]))
    plot(figure(), alt="a line")  # @stepover

def figure():
    from matplotlib.figure import Figure
    drawing = Figure(figsize=(3, 2))
    drawing.add_subplot().plot([1, 2, 3])
    return drawing
'''


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    playwright = pytest.importorskip("playwright.sync_api")
    if found is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=found)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    lecture = folder / "demo.py"
    lecture.write_text(LECTURE.strip() + "\n", encoding="utf-8")
    html, problems = make_page(record_here(lecture, limits=Limits()))
    assert problems == []
    (folder / "demo.html").write_text(html, encoding="utf-8")
    return folder / "demo.html"


class Tab:
    """A page in the browser, with what it asked of the network and what it complained about."""

    def __init__(self, page, file: Path, fragment: str = "", **options):
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.listeners = {
            "request": lambda request: self.requests.append(request.url),
            "console": lambda message: self.complaints.append(message.text),
            "pageerror": lambda error: self.complaints.append(str(error)),
        }
        for event, listener in self.listeners.items():
            self.page.on(event, listener)
        self.page.goto(f"file://{file}{fragment}")
        if options.get("java_script_enabled", True):
            self.page.wait_for_selector("html.ready")

    def press(self, *keys: str) -> Tab:
        for key in keys:
            self.page.keyboard.press(key)
        return self

    @property
    def step(self) -> int:
        return int(self.page.input_value("#slider"))

    @property
    def line(self) -> int:
        return int(self.page.get_attribute(".unit.current .no", "data-at").split(":")[1])

    def until(self, wanted) -> None:
        """Wait for a step; the page's policy forbids the browser's own way of waiting for a condition."""
        for _ in range(200):
            if wanted(self.step):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"step {self.step} after ten seconds")

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def check_and_empty(self) -> None:
        """Nothing may have been fetched or complained; then the page is as new, for the next tab in it."""
        assert [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))] == []
        assert self.complaints == []
        self.page.evaluate("localStorage.clear()")
        for event, listener in self.listeners.items():
            self.page.remove_listener(event, listener)
        self.page.goto("about:blank")


def new_page(browser, **options):
    """A page without a network in a window of its own, which takes the browser a second of work."""
    return browser.new_context(offline=True, **({"viewport": {"width": 1400, "height": 900}} | options)).new_page()


@pytest.fixture(scope="module")
def usual_page(browser):
    """The page in which each test opens its first tab, unless it asks for options."""
    return new_page(browser)


@pytest.fixture
def open_page(browser, usual_page, page_file):
    """Function (fragment, **options) that opens the page; afterwards nothing may have been fetched or complained."""
    tabs: list[Tab] = []

    def show(fragment: str = "", file: Path = page_file, **options) -> Tab:
        again = options or any(tab.page is usual_page for tab in tabs)
        tabs.append(Tab(new_page(browser, **options) if again else usual_page, file, fragment, **options))
        return tabs[-1]

    yield show
    for tab in tabs:
        tab.check_and_empty()
        if tab.page is not usual_page:
            tab.page.context.close()


def line_of(text: str) -> int:
    """The line of the lecture that holds a text."""
    return next(n for n, line in enumerate(LECTURE.strip().split("\n"), start=1) if text in line)


def test_keys_walk_through_the_steps(open_page):
    tab = open_page()
    assert tab.step == 0 and tab.line == line_of("# Title")
    assert tab.press("l", "ArrowRight").step == 2 and tab.press("h").step == 1
    tab.press("End")
    last = tab.step
    assert last == int(tab.page.get_attribute("#slider", "max")) and tab.press("ArrowRight").step == last
    assert tab.press("Home").step == 0 and tab.press("h").step == 0
    tab.press("l", "l", "l")
    assert tab.line == line_of("    loop()")
    assert tab.press("j").line == line_of("    loop()"), "over the call, to the step after it"
    assert tab.press("j").line == line_of("    tensors()")
    tab.press("k", "k")
    assert tab.line == line_of("    loop()") and tab.press("l").line == line_of("## Loop")
    assert tab.press("u").line == line_of("    loop()"), "out"
    assert tab.press("n").line == line_of("## Tensors") and tab.press("N").line == line_of("## Loop")
    tab.press(" ")
    tab.until(lambda step: step > 6)
    tab.press(" ")


def test_a_loop_says_what_it_said_then(open_page):
    tab = open_page(f"#L=demo.py:{line_of('turn {i}')}.2")
    assert "turn 1" in tab.text(".unit.current .visit.on") and tab.text("#variables").count("i\n") >= 1
    assert "turn 1" in tab.text("main") and "turn 2" not in tab.text("main") and "turn 0" not in tab.text("main")
    tab.press("h", "h", "h", "h", "h", "h")
    assert "turn 0" in tab.text("main") and "turn 1" not in tab.text("main")


@pytest.mark.parametrize(
    ("fragment", "step", "line"),
    [
        ("#s=0", 0, "# Title"),
        ("#s=5", 5, None),
        ("#sec=tensors", None, "## Tensors"),
        ("#L=demo.py:17", None, "turn {i}"),
    ],
)
def test_deep_links(open_page, fragment, step, line):
    tab = open_page(fragment)
    assert step is None or tab.step == step
    assert line is None or tab.line == line_of(line) or fragment.startswith("#L")
    assert open_page(tab.page.evaluate("location.hash")).step == tab.step


def test_a_link_to_a_line_that_never_ran_says_so(open_page):
    tab = open_page(f"#L=demo.py:{line_of('never = 1')}&v=code")
    assert "never runs" in tab.text(".toast") and tab.step == 0
    assert tab.page.get_attribute("html", "data-view") == "code"
    assert "There is no section" in open_page("#sec=nowhere").text(".toast")
    assert open_page("#s=99999").step == int(tab.page.get_attribute("#slider", "max"))


def test_the_back_button_undoes_jumps(open_page):
    tab = open_page("#s=3")
    tab.press("n")
    after = tab.step
    assert after != 3
    tab.page.go_back()
    tab.until(lambda step: step == 3)
    tab.page.go_forward()
    tab.until(lambda step: step == after)


def test_variables_stack_console_and_next_change(open_page):
    tab = open_page(f"#L=demo.py:{line_of('doubled = 2')}")
    assert re.search(r"doubled\s+.*\s*0", tab.text("#variables"))
    assert tab.page.locator("#stack b").all_inner_texts() == ["main", "loop", "inner"]
    tab.page.click("#stack li:nth-child(2) button")
    assert "doubled" not in tab.text("#variables") and "i" in tab.text("#variables")
    tab.page.click("#variables .next")
    assert "turn 0" in tab.text("main") and "1" in tab.text("#variables .variable.changed")
    tab = open_page(f"#L=demo.py:{line_of('y = x.T')}")
    assert "= x" in tab.text("#variables .badge >> nth=1") and "float32 [20, 10]" in tab.text("#variables")
    assert "mean 99.5" in tab.text("#variables .statistics >> nth=0").replace("\n", " ")
    assert "printed at" not in tab.text("#console") and "printed at the end" in tab.press("End").text("#console")


def test_run_to_a_line(open_page):
    tab = open_page()
    line = line_of("doubled = 2")
    tab.page.click(f"[data-at='0:{line}']")
    first = tab.step
    assert tab.line == line
    tab.page.click(f"[data-at='0:{line}']")
    assert tab.line == line and tab.step > first


def test_search(open_page):
    tab = open_page().press("/")
    tab.page.keyboard.type("unmistakable")
    assert tab.text("#found") == "1 found"
    tab.press("Enter")
    assert tab.line == line_of("Unmistakable") and not tab.page.is_visible("#search")
    tab.press("/")
    tab.page.fill("#query", "doubled = 4")
    tab.press("Enter")
    assert tab.line == line_of("doubled = 2")


def test_views_notes_sources_help_and_theme(open_page):
    tab = open_page()
    said, code = f"[data-at='0:{line_of('Unmistakable')}']", "text=Unmistakable prose"
    assert not tab.page.is_visible(said) and tab.page.is_visible(code)
    tab.press("R")
    assert tab.page.is_visible(said) and tab.page.is_visible(code)
    tab.press("R")
    assert tab.page.is_visible(said) and "directive" in tab.page.content()
    tab.press("R")
    assert not tab.page.is_visible("text=only for the presenter")
    assert tab.press("P").page.is_visible("text=only for the presenter")
    tab.page.click(".source-link")
    assert "doubled = 2 * n" in tab.text("#dialog") and "demo.py:" in tab.text("#dialog-title")
    tab.press("Escape", "?")
    assert "Step over" in tab.text("#dialog")
    dark = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.press("Escape", "t")
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    tab.page.click("summary:has-text('Show the answer')")
    assert tab.page.is_visible("text=Because.")


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}])
def test_no_serious_accessibility_findings(open_page, options):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tab = open_page(f"#L=demo.py:{line_of('y = x.T')}", **options)
    found = axe.run(tab.page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:120]) for v in found if v["impact"] in ("serious", "critical")] == []


def test_on_a_phone_everything_is_in_reach(open_page):
    tab = open_page("#s=5", viewport={"width": 390, "height": 844})
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("variables", "stack", "console", "outline"):
        tab.page.click(f"#tabs [data-pane={name}]")
        assert tab.page.is_visible(f"#{name}")
    tab.page.click("#outline-list button >> nth=2")
    assert not tab.page.is_visible("#outline") and tab.line == line_of("## Tensors")
    tab.page.click("[data-move=forward]")


def test_without_scripts_and_on_paper(open_page, tmp_path):
    tab = open_page(java_script_enabled=False)
    for text in ("Unmistakable prose", "turn 0", "turn 2", "y = x.T"):
        assert text in tab.text("main")
    assert not tab.page.is_visible("#bar")
    tab = open_page(color_scheme="light")
    tab.page.emulate_media(media="print")
    assert "turn 0" in tab.text("main") and "turn 2" in tab.text("main") and not tab.page.is_visible("#panes")
    pdf = tab.page.pdf(path=str(tmp_path / "page.pdf"))
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 1


def test_languages(open_page, write_lecture, monkeypatch):
    from lectures.i18n import catalogue

    folder = write_lecture("x = 1").parent
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    (folder / "zh").mkdir()
    (folder / "zh" / "demo.po").write_text(
        'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
        'msgid "turn {n}"\nmsgstr "\u7b2c {n} \u6b21"\n', encoding="utf-8",
    )  # fmt: skip
    (folder / "zh" / "ui.po").write_text('msgid "Outline"\nmsgstr "\u76ee\u5f55"\n', encoding="utf-8")
    lecture = write_lecture("""
        from lectures.content import text
        def main():
            text("turn {n}", n=7)
            text("untranslated")
    """)
    html, _ = make_page(record_here(lecture, limits=Limits()))
    (folder / "demo.html").write_text(html, encoding="utf-8")
    tab = open_page(file=folder / "demo.html")
    assert "turn 7" in tab.text("main") and "\u7b2c" not in tab.text("main")
    tab.page.select_option("#language", "zh")
    assert (
        "\u7b2c 7 \u6b21" in tab.text("main")
        and "turn 7" not in tab.text("main")
        and "untranslated" in tab.text("main")
    )
    assert "\u76ee\u5f55" in tab.text("#outline h2") and tab.page.get_attribute("html", "lang") == "zh-Hans"


def test_ranks_have_lanes(open_page, write_lecture, tmp_path):
    lecture = write_lecture("""
        import torch
        import torch.distributed as dist
        from lectures.content import spawn, text
        def main():
            spawn(work, 2)
        def work(rank, world_size):
            x = torch.arange(4.0) + rank  # @inspect x
            if rank == 0:
                dist.send(x, dst=1)
            else:
                y = torch.zeros(4)
                dist.recv(y, src=0)  # @inspect y
            dist.all_reduce(x)
            text("sum {s}", s=x[0].item())
    """)
    trace = record_here(lecture, limits=Limits())
    assert trace["meta"]["error"] is None and trace["meta"]["lanes"] == 3
    steps, lanes = trace["steps"], trace["frames"]["lane"]
    lines = [s[0] for s in trace["files"][0]["statements"]]
    order = [(lanes[f], lines[s]) for f, s in zip(steps["frame"], steps["statement"], strict=True)]
    assert order.index((1, 9)) < order.index((2, 12)), "a send stands before its receive"
    before = max(i for i, (_, line) in enumerate(order) if line in (9, 12))
    assert min(i for i, (_, line) in enumerate(order) if line == 13) > before, (
        "what precedes a collective stands before it"
    )
    values = {
        (lanes[steps["frame"][s]], name): trace["values"][v] for s, changes in trace["changes"] for name, v in changes
    }
    assert values[1, "x"]["n"] == values[2, "x"]["n"] == [1.0, 3.0, 5.0, 7.0] and values[2, "y"]["n"] == [0, 1, 2, 3]
    html, _ = make_page(trace)
    (tmp_path / "lanes.html").write_text(html, encoding="utf-8")
    tab = open_page("#s=9999", file=tmp_path / "lanes.html")
    assert tab.page.locator(".lane").count() == 2 and "[1.0, 3.0, 5.0, 7.0]" in tab.text(".lane >> nth=1")


def test_twenty_thousand_steps(open_page, write_lecture, tmp_path):
    lecture = write_lecture("""
        def main():
            total = 0  # @inspect total
            for i in range(3320):  # @inspect i
                total = add(total, i)
                last = total - i  # @inspect last
        def add(a, b):  # @inspect a b
            c = a + b  # @inspect c
            return c
    """)
    trace = record_here(lecture, limits=Limits(max_steps=30_000))
    assert len(trace["steps"]["kind"]) > 19_900
    html, _ = make_page(trace)
    file = tmp_path / "long.html"
    file.write_text(html, encoding="utf-8")
    assert file.stat().st_size < 2e6
    tab = open_page(file=file)
    paint = tab.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    tab.page.evaluate("location.hash = '#s=10000'")
    tab.until(lambda step: step == 10_000)
    times = tab.page.evaluate("""() => {
        const press = (key) => {
            const begin = performance.now();
            document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
            document.body.offsetHeight;
            return performance.now() - begin;
        };
        return Array.from({ length: 101 }, () => press('ArrowRight')).sort((a, b) => a - b);
    }""")
    assert tab.step == 10_101
    print(f"first paint {paint:.0f} ms; a step {times[50]:.1f} ms, at worst {times[-1]:.1f} ms")


def test_a_failing_lecture_has_a_page(open_page, write_lecture, tmp_path, capsys):
    lecture = write_lecture("""
        from lectures.content import text
        def main():
            text("so far so good, $\\\\nosuch{x}$")
            y = 1  # @inspect yy
            raise ValueError("<b>stop</b>")
    """)
    with pytest.raises(SystemExit) as stop:
        build([str(lecture), "--out", str(tmp_path / "out")])
    assert stop.value.code == 1
    assert "demo.py:5: ValueError: <b>stop</b>" in capsys.readouterr().err
    tab = open_page("#s=9", file=tmp_path / "out" / "demo.html")
    assert "demo.py:5" in tab.text(".notice.error") and "<b>stop</b>" in tab.text(".notice.error")
    assert "@inspect yy" in tab.text("main") and "nosuch" in tab.text("main") and tab.line == 5
    index = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "demo.html" in index and "ended early" in index


def test_payload_is_json_that_the_page_can_read(page_file):
    import base64
    import gzip

    found = re.search(r'id="steps">([^<]*)<', page_file.read_text(encoding="utf-8"))
    payload = json.loads(gzip.decompress(base64.b64decode(found[1])))
    assert payload["name"] == "demo" and len(payload["steps"]["kind"]) == len(payload["steps"]["frame"])
    assert [entry["titles"]["en"] for entry in payload["outline"]][0] == "Title with x^2"
