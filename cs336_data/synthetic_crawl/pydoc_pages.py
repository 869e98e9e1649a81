"""Real pages on every machine: the Python library that runs this, as `pydoc` renders it.

    article   paragraphs of prose from docstrings and chapters, about 380 pages of 90 to 200 words
    topic     a chapter of the language reference as it stands
    module    one module with all its classes and functions
    class     one class with its methods, inherited ones included

Articles are what a filter should keep. The others are real pages with the troubles of real ones (tables, code, long
lists of names, text repeated from page to page), of which it is a matter of taste whether they are worth keeping. All
differ between Python versions and are otherwise the same on each call: links to local files and addresses in memory are
cut out. Importing the listed modules has no side effects; inspect and typing are left out, because other libraries
change them. Read next: `generated_pages.py`.
"""

from __future__ import annotations

import importlib
import inspect
import pydoc
import random
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

MODULES = tuple(
    """
    abc argparse array ast asyncio.events asyncio.locks asyncio.queues asyncio.streams asyncio.tasks base64 bdb
    bisect calendar cmd code codecs collections collections.abc colorsys concurrent.futures configparser
    contextlib copy csv dataclasses datetime decimal difflib dis doctest email.charset email.generator
    email.header email.headerregistry email.message email.parser email.policy enum filecmp fileinput fnmatch
    fractions ftplib functools getopt gettext glob graphlib gzip hashlib heapq hmac html html.parser http
    http.client http.cookiejar http.cookies http.server imaplib importlib.abc importlib.metadata io ipaddress
    itertools json json.decoder json.encoder linecache locale logging.config logging.handlers lzma mailbox
    mimetypes multiprocessing.connection multiprocessing.managers multiprocessing.pool
    multiprocessing.shared_memory netrc numbers opcode operator optparse pathlib pdb pickle pickletools pkgutil
    plistlib poplib pprint profile pstats pydoc queue quopri random re reprlib rlcompleter sched secrets
    selectors shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl statistics string stringprep
    struct subprocess symtable tabnanny tarfile tempfile textwrap threading timeit token tokenize trace
    traceback tracemalloc types unittest.case unittest.loader unittest.mock unittest.runner unittest.suite
    urllib.error urllib.parse urllib.request urllib.response urllib.robotparser uuid warnings wave weakref
    webbrowser wsgiref.handlers wsgiref.headers wsgiref.simple_server wsgiref.util xml.dom xml.dom.minidom
    xml.etree.ElementTree xml.sax.handler xml.sax.saxutils xmlrpc.client xmlrpc.server zipapp zipfile zipimport
    zlib
""".split()
)
_FILE_LINK = re.compile(r'<a href="file:[^"]*">[^<]*</a>')
_ADDRESS = re.compile(r"\b0x[0-9a-f]{8,16}\b")
_MAX_BYTES = 80_000  # a longer page would be most of the crawl
_MIN_DOC_WORDS = 25  # a class that says less about itself is no page
_TOKEN = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]+")
_MIN_PARAGRAPH_WORDS = 12
_MIN_WORD_SHARE = 0.82  # of a paragraph's words and punctuation marks; with fewer words it is a table or code

Kind = Literal["article", "topic", "module", "class"]


@dataclass(frozen=True)
class PydocPage:
    """A rendered page: `name` is the dotted name or the topic, `body` the HTML within <body>."""

    kind: Kind
    name: str
    body: str


def article_pages(count: int, *, seed: int) -> list[PydocPage]:
    """Prose of the library, each paragraph in one page only, in an order drawn by `seed`.

    Args:
        count: pages wanted; fewer come when there is no more prose (about 380 pages).
        seed: same seed, same Python: same pages.
    """
    rng, pages, seen = random.Random(seed), [], set[str]()
    for name, texts in _docstrings():
        body: list[str] = []
        words, wanted = 0, rng.randint(90, 200)
        for paragraph in (p for text in texts for p in _paragraphs(text)):
            if paragraph in seen:
                continue
            seen.add(paragraph)
            body.append(paragraph)
            words += len(paragraph.split())
            if words >= wanted:
                pages.append(_article(name, body))
                body, words, wanted = [], 0, rng.randint(90, 200)
    rng.shuffle(pages)
    return pages[:count]


def _article(name: str, paragraphs: list[str]) -> PydocPage:
    content = "\n".join(f"<p>{pydoc.html.markup(paragraph)}</p>" for paragraph in paragraphs)
    return PydocPage("article", name, f"<h1>About {name}</h1>\n{content}")


def _docstrings() -> list[tuple[str, list[str]]]:
    """(topic or module, its chapter or docstrings)."""
    from pydoc_data.topics import topics

    texts = [(name, [topics[name]]) for name in _topic_names()]
    with warnings.catch_warnings(action="ignore"):  # of modules that are to go
        texts += [(name, _docstrings_of(name)) for name in MODULES]
    return texts


def _docstrings_of(name: str) -> list[str]:
    """All docstrings of a module, inherited ones left out; none if this Python was built without it."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        return []
    owned = [value for value in vars(module).values() if _is_code(value) and getattr(value, "__module__", "") == name]
    members = [value for cls in owned if inspect.isclass(cls) for value in vars(cls).values() if _is_code(value)]
    found = [value.__doc__ for value in [module, *owned, *members]]
    return [text for text in found if isinstance(text, str)]


def _is_code(value: object) -> bool:
    """Whether a docstring of its own can be expected; a list's would be that of `list`."""
    return inspect.isroutine(value) or isinstance(value, (type, property, classmethod, staticmethod))


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs that are prose."""
    for block in re.split(r"\n\s*\n", text):
        words = block.split()
        if len(words) < _MIN_PARAGRAPH_WORDS or words[-1][-1] not in ".:!?)" or ">>>" in words:
            continue
        tokens = _TOKEN.findall(block)
        if sum(any(map(str.isalpha, token)) for token in tokens) >= _MIN_WORD_SHARE * len(tokens):
            yield " ".join(words)


def reference_pages(count: int, *, seed: int) -> Iterator[PydocPage]:
    """Yield topics, modules and classes as pydoc shows them, in an order drawn by `seed`.

    Args:
        count: pages wanted; fewer come when the library has no more (about 500).
        seed: same seed, same Python: same pages.

    Complexity: 20 to 30 ms a page, nearly all of it in pydoc.
    """
    rng = random.Random(seed)
    names = [*_topic_names(), *MODULES, *(f"{module}:" for module in MODULES)]
    rng.shuffle(names)
    made = 0
    for name in names:
        with warnings.catch_warnings(action="ignore"):
            rendered = _render(name)
        for page in rendered:
            if made >= count:
                return
            if len(page.body) <= _MAX_BYTES:
                made += 1
                yield page


def _render(name: str) -> list[PydocPage]:
    """A topic, a module, or with a colon the classes of a module."""
    if name in _topic_names():
        return [PydocPage("topic", name, _topic_body(name))]
    try:
        module = importlib.import_module(name.removesuffix(":"))
    except ImportError:  # a Python built without sqlite3, ssl or the like
        return []
    if not name.endswith(":"):
        return [PydocPage("module", name, _clean(pydoc.html.document(module, name)))]
    return [
        PydocPage("class", f"{module.__name__}.{cls.__qualname__}", _clean(pydoc.html.document(cls)))
        for cls in _classes(module)
    ]


def _topic_names() -> list[str]:
    """The chapters that pydoc carries."""
    from pydoc_data.topics import topics

    return sorted(topics)


def _topic_body(name: str) -> str:
    """A chapter as pydoc's own web server shows it."""
    from pydoc_data.topics import topics

    text = pydoc.html.markup(topics[name])
    return pydoc.html.bigsection(name, "index", f"<pre>{text}</pre>")


def _classes(module: ModuleType) -> list[type]:
    """The public classes that a module defines and documents."""
    found = [
        cls
        for name, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__ and not name.startswith("_")
    ]
    return [cls for cls in found if len((inspect.getdoc(cls) or "").split()) >= _MIN_DOC_WORDS]


def _clean(body: str) -> str:
    """Without this machine's paths and this process's addresses."""
    return _ADDRESS.sub("0x0", _FILE_LINK.sub("(built-in)", body))
