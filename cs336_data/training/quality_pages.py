"""Pages with known quality for training the quality classifier: prose of reference works against furniture of the web.

    pages(3, seed=0)  ->  [QualityPage("Silver is a metal ...", True), QualityPage("Home | News | ...", False), ...]

Good pages are paragraphs of the Python library's docstrings (real prose, on every machine) and generated encyclopedia
entries on invented things. Bad pages are generated: menus, shops, forums, logins, keyword spam, advertisements, chat.
All frames and lists were written for this project; see the data card beside the models.

Left out: bad pages that are fluent (machine-written filler, opinion without content), which counting cannot tell.
Read next: `cs336_data/classifiers/page_features.py`.
"""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass

from cs336_basics.corpora.stdlib_source import stdlib_files

_DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)
_MARKUP = re.compile(r"[<>{}=_|\\]")
_SYLLABLES = "ka lo mir ven tor sel ba dun ril os ta nor gal we li ham bor an el ster ing fe ru".split()
_FIELDS = ["chemistry", "law", "music", "medicine", "geology", "trade", "botany", "grammar", "astronomy", "engineering",
           "painting", "agriculture", "theology", "logic", "navigation"]  # fmt: skip
_THINGS = ["mineral", "dialect", "river", "dynasty", "instrument", "beetle", "treaty", "method", "village", "fabric",
           "alloy", "poem", "protein", "festival", "machine", "comet", "theorem", "breed", "canal", "orchid"]  # fmt: skip
_PLACES = ["the northern provinces", "the upper valley", "several coastal towns", "the eastern islands", "the old capital",
           "most of the peninsula", "the mountain districts", "neighboring countries"]  # fmt: skip
_ADJECTIVES = ["gradual", "remarkable", "common", "rare", "complex", "early", "independent", "seasonal", "stable",
               "regional", "formal", "dense", "narrow", "moderate"]  # fmt: skip
_FRAMES = [
    "{Name} is a {adj} {thing} found in {place}.",
    "{Name} was a {adj} {thing} whose influence on {field} lasted until the {nth} century.",
    "The {thing} was first described in {year} by {Person}, who compared it with earlier work on {field}.",
    "It differs from other forms of {field} in that its structure remains {adj} even when conditions change.",
    "Although its origin is uncertain, most scholars believe that it spread from {place} during the {nth} century.",
    "Between {year} and {year} the number of such {thing}s increased from {n} to {n}, largely because of changes in {field}.",
    "In {field}, the term {name} refers to a {adj} process by which one {thing} is converted into another.",
    "According to {Person}, the {adj} character of the {thing} results from the climate of {place}.",
    "{Person} ({year}-{year}) studied {field} and later taught it in {place}.",
    "The results were published in {year} and led to a revision of the theory, which had been accepted since {year}.",
    "There are {n} known varieties, of which three occur in {place} and the remainder in {place}.",
    "Since each {thing} depends on the one before it, the total grows more slowly than one might expect.",
    "This property is used in {field}, where a {adj} {thing} serves as a standard for measurement.",
    "The council of {Name} consists of {n} members, who are elected for four years and may serve two terms.",
    "After the war the region was divided, and the {thing} came under the administration of {place}.",
    "Its length is about {n} kilometers, and it reaches a depth of {n} meters near {Name}.",
    "Critics have pointed out that the evidence for this view is {adj}, and that other explanations are possible.",
    "When heated, it loses its color and becomes brittle; on cooling it returns to its original state.",
    "The name is derived from an older word for {thing}, which is attested in documents of the {nth} century.",
    "To prove this, assume the contrary and choose the smallest {thing} for which the statement fails.",
    "If the value is missing, the default is used instead, and the caller is informed by a warning.",
    "Patients with a {adj} form of the disease usually recover, whereas others need treatment for several months.",
]
_MENU = ("Home|About|About us|Contact|Contact us|News|Blog|Shop|Store|Support|Help|FAQ|Login|Log in|Register|Sign in|Sign up|"
         "My account|Cart|Checkout|Wishlist|Search|Sitemap|Privacy policy|Terms of service|Careers|Press|Archive|Gallery|"
         "Videos|Photos|Forum|Members|Events|Services|Products|Categories|Brands|Sale|New|Top rated|Downloads|Links|RSS|"
         "Follow us|Facebook|Twitter|Instagram|YouTube|Newsletter|Subscribe|Menu|Close|Back|Next|Previous|More|View all|"
         "Read more|Show more|Print|Share|Email|Tags|Comments|Advertise|Language|English|Deutsch|Cookies|Settings|Logout|"
         "Profile|Messages|Notifications|Favorites|Compare|Reviews|Random|Popular|Trending|Latest").split("|")  # fmt: skip
_GOODS = ("shoes|watches|loans|pills|flights|hotels|tickets|phones|handbags|insurance|lamps|shirts|ringtones|games|laptops|"
          "wallpapers|jackets|mattresses|essays|software|casino chips|sunglasses|vitamins|toys|cars|perfume|rugs|"
          "tools").split("|")  # fmt: skip
_ADS = ["Buy {goods} online!", "Cheap {goods}, best {goods}, {goods} sale", "Up to {p}% off all {goods}!!!",
        "Free {goods} with every order!", "Order your {goods} now and save ${n}!", "{goods} {goods} {goods} cheap {goods}",
        "Only {d} {goods} left!", "Amazing {goods} you will love!!", "Get rich with {goods}! No risk! Start now!",
        "Are you tired of bad {goods}? Try ours! Satisfaction guaranteed!", "Hurry! Offer ends soon! {goods} from ${d}.99",
        "Visit our shop for the best {goods}, the best price and the best service!!", "Call us for {goods}! Open 24/7!",
        "Win free {goods}! Enter your email to play!", "Real reviews of {goods}! 5 stars! Must have!",
        "You deserve new {goods}. Treat yourself today!", "We have the best {goods} in town, call for your free quote.",
        "Discount {goods} wholesale outlet new style free delivery"]  # fmt: skip
_FORUM = ["Re: {goods}", "Posted: {date}", "Joined: {month} {year}", "Posts: {n}", "Location: {Name}", "Top", "Reply", "Quote",
          "Report", "Rank: Senior Member", "Last edited by {name}{d} on {date}", "{n} views, {d} replies", "Thread closed",
          "Users browsing this forum: {d} guests", "All times are UTC", "Jump to: {goods}", "Moderator: {name}", "Offline",
          "Powered by {Name} v{d}.{d}", "Page {d} of {n}", "Pages: 1, 2, {d}", "Display: 25 | 50 | 100", "Go to page {d}"]  # fmt: skip
_CHAT = ["lol", "omg so true", "thx man!!", "anyone here??", "me too haha", "plz help", "gr8 post", "i love it sooo much!!!",
         "idk maybe", "nice pic :)", "hi all im {name}", "check out my page", "bump", "whats up", "same", "u are the best",
         "i think its ok but dont buy the {goods}", "my {goods} broke again ugh", "so i was like no way and she was like yes",
         "just bought new {goods}, im so happy!!", "cant wait for friday!", "where did u get these {goods}?"]  # fmt: skip
_FORM = ["Name:", "Email:", "Password:", "Required field", "Submit", "Reset", "Enter code", "I accept the terms", "Price: ${d}.99",
         "Quantity {d}", "Size: M L XL", "Color: red blue", "SKU {n}", "In stock", "Sold out", "Add to cart", "Ships in {d} days",
         "Rating: {d}/5", "{d} reviews", "{d} items", "Sort by: newest", "Min: ${d} Max: ${n}", "Tel: {n} {n}", "Loading...",
         "Error {n}", "Not found", "Access denied", "Please wait", "Cookies are required", "{date} {d}:{p} PM", "v{d}.{d}.{d}",
         "File: {name}.zip {d} MB", "IMG_{n}.jpg", "{d} comments", "Tags: {goods}, {goods}, {goods}", "Bedrooms: {d}",
         "Score {d} - {d}", "Level {d}", "Lot {n}", "ID {n}", "W {d} L {d} D {d}"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class QualityPage:
    """A text and whether it is the kind one wants to train on."""

    text: str
    good: bool


def pages(count: int, *, seed: int) -> list[QualityPage]:
    """Make pages, half of them good; same seed and Python version, same pages."""
    rng = random.Random(f"quality {seed}")
    prose = docstring_paragraphs()
    made = []
    for number in range(count):
        if number % 2:
            made.append(QualityPage(_good(rng, prose), True))
        else:
            made.append(QualityPage(_bad(rng, prose), False))
    return made


def _good(rng: random.Random, prose: tuple[str, ...]) -> str:
    """One to eight paragraphs, sometimes with headings or a line of furniture left over from extraction."""
    parts = []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
        if rng.random() < 0.15:
            parts.append(
                rng.choice(("History", "Geography", "Overview", "Early life", "Use", "References", "See also"))
            )
        if rng.random() < 0.5:
            parts.append(rng.choice(prose))
        else:
            parts.append(" ".join(_fill(rng.choice(_FRAMES), rng) for _ in range(rng.randrange(2, 6))))
        if rng.random() < 0.08:
            parts.append(rng.choice(_MENU))
    return rng.choice(("\n", "\n\n")).join(parts)


def _bad(rng: random.Random, prose: tuple[str, ...]) -> str:
    """Two to forty pieces of furniture of one to three kinds, now and then with a sentence of prose."""
    kinds = rng.sample((_MENU, _ADS, _FORUM, _CHAT, _FORM), rng.choice((1, 1, 2, 3)))
    separator = rng.choice(("\n", "\n", "\n", " ", " | ", "\n\n"))
    parts = []
    for _ in range(int(2 ** rng.uniform(1.5, 5.3))):
        parts.append(_fill(rng.choice(rng.choice(kinds)), rng))
    if kinds[0] is _ADS and rng.random() < 0.5:
        separator = " "
    if rng.random() < 0.15:
        parts.insert(rng.randrange(len(parts)), rng.choice(prose).split(". ")[0])
    return separator.join(parts)


def _fill(frame: str, rng: random.Random) -> str:
    """Put invented words and numbers into a frame."""

    def value(match: re.Match[str]) -> str:
        slot = match[1]
        name = "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice((2, 2, 3))))
        month = rng.choice("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())
        return {
            "name": name, "Name": name.title(), "Person": f"{rng.choice('ABCDEFGHJKLM')}. {name.title()}",
            "thing": rng.choice(_THINGS), "field": rng.choice(_FIELDS), "place": rng.choice(_PLACES),
            "adj": rng.choice(_ADJECTIVES), "goods": rng.choice(_GOODS), "year": str(rng.randrange(1100, 2020)),
            "nth": rng.choice(("ninth", "twelfth", "fifteenth", "seventeenth", "nineteenth")), "month": month,
            "n": str(rng.randrange(10, 9000)), "d": str(rng.randrange(1, 10)), "p": str(rng.randrange(10, 90)),
            "date": f"{month} {rng.randrange(1, 29)}, {rng.randrange(2003, 2020)}",
        }[slot]  # fmt: skip

    return re.sub(r"\{(\w+)\}", value, frame)


@functools.cache
def docstring_paragraphs() -> tuple[str, ...]:
    """Paragraphs of two sentences and more from the library's docstrings, in the order of its files."""
    found: dict[str, None] = {}
    for path in stdlib_files():
        for string in _DOCSTRING.findall(path.read_text(encoding="utf-8")):
            for paragraph in string.split("\n\n"):
                text = " ".join(paragraph.split())
                if 120 < len(text) < 900 and text[:1].isupper() and text.endswith(".") and not _MARKUP.search(text):
                    found[text] = None
    return tuple(found)
