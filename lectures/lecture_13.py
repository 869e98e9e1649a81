"""Where the data comes from.

Lecture 13 of the course: what models have been trained on, how a web crawl is stored and read, text out of HTML, rules
and what each removes, personal data, poisoning, copyright and consent, long documents, instructions and synthetic data.
It prepares assignment 4, problems `look_at_cc`, `extract_text`, `mask_pii` and `gopher_quality_filters`. Left out:
scores, deduplication and mixing (lecture 14). Read next: `lecture_14.py`.
"""

import copy
import json
import math
import random
import tempfile
import urllib.robotparser
from collections import Counter
from pathlib import Path

import numpy as np

from cs336_basics.runs.plots import COLOURS, plot_overlaid_curves, plot_values
from cs336_data.document import Document
from cs336_data.extraction import decode_html, extract_html, extract_text_from_html_bytes, record_to_document
from cs336_data.language import identify_language
from cs336_data.pii import find_spans, mask_emails, mask_pii
from cs336_data.rules.gopher import gopher_quality_filter
from cs336_data.rules.rule_sets import rule_filter
from cs336_data.synthetic_crawl.crawl import CrawlOptions, write_crawl
from cs336_data.synthetic_crawl.records import break_member, gzip_member, http_response, warc_record
from cs336_data.warc import read_records
from lectures.content import Reference, exercise, note, plot, quiz, text


def cite(title, authors, year, arxiv=""):  # @stepover @hide
    url = f"https://arxiv.org/abs/{arxiv}" if arxiv else None  # @hide
    return Reference(title=title, authors=authors.split(", "), date=str(year), url=url)  # @hide


ZHU = cite("Aligning Books and Movies: Towards Story-like Visual Explanations by Watching Movies and Reading Books",
           "Yukun Zhu, Ryan Kiros", 2015, "1506.06724")  # fmt: skip
RAFFEL = cite("Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
              "Colin Raffel, Noam Shazeer", 2020, "1910.10683")  # fmt: skip
RADFORD = cite("Language Models are Unsupervised Multitask Learners", "Alec Radford, Jeff Wu", 2019)
WENZEK = cite("CCNet: Extracting High Quality Monolingual Datasets from Web Crawl Data",
              "Guillaume Wenzek, Marie-Anne Lachaux", 2019, "1911.00359")  # fmt: skip
BROWN = cite("Language Models are Few-Shot Learners", "Tom Brown, Benjamin Mann", 2020, "2005.14165")
GAO = cite(
    "The Pile: An 800GB Dataset of Diverse Text for Language Modeling", "Leo Gao, Stella Biderman", 2020, "2101.00027"
)
RAE = cite(
    "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", "Jack Rae, et al.", 2021, "2112.11446"
)
KOCETKOV = cite("The Stack: 3 TB of permissively licensed source code", "Denis Kocetkov, et al.", 2022, "2211.15533")
TOUVRON = cite("LLaMA: Open and Efficient Foundation Language Models", "Hugo Touvron, et al.", 2023, "2302.13971")
PENEDO23 = cite("The RefinedWeb Dataset for Falcon LLM: Outperforming Curated Corpora with Web Data, and Web Data Only",
                "Guilherme Penedo, et al.", 2023, "2306.01116")  # fmt: skip
SOLDAINI = cite("Dolma: an Open Corpus of Three Trillion Tokens for Language Model Pretraining Research",
                "Luca Soldaini, et al.", 2024, "2402.00159")  # fmt: skip
PENEDO = cite(
    "The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale", "Guilherme Penedo, et al.", 2024
)
LI = cite("DataComp-LM: In search of the next generation of training sets", "Jeffrey Li, et al.", 2024, "2406.11794")
SU = cite(
    "Nemotron-CC: Transforming Common Crawl into a Refined Long-Horizon Pretraining Dataset", "Dan Su, et al.", 2024
)
KANDPAL = cite(
    "The Common Pile v0.1: An 8TB Dataset of Public Domain and Openly Licensed Text", "Nikhil Kandpal, et al.", 2025
)
CARLINI = cite("Poisoning Web-Scale Training Datasets is Practical", "Nicholas Carlini, et al.", 2023, "2302.10149")
LONGPRE = cite(
    "Consent in Crisis: The Rapid Decline of the AI Data Commons", "Shayne Longpre, et al.", 2024, "2407.14933"
)
MAINI = cite(
    "Rephrasing the Web: A Recipe for Compute and Data-Efficient Language Modeling", "Pratyush Maini, et al.", 2024
)
GUNASEKAR = cite("Textbooks Are All You Need", "Suriya Gunasekar, et al.", 2023, "2306.11644")
SHUMAILOV = cite("AI models collapse when trained on recursively generated data", "Ilia Shumailov, et al.", 2024)
WANG = cite(
    "Self-Instruct: Aligning Language Models with Self-Generated Instructions",
    "Yizhong Wang, et al.",
    2023,
    "2212.10560",
)

# name, year, tokens in billions as published (or bytes / 4, marked), what it is made of, reference
CORPORA = [
    ("BooksCorpus", 2015, 1.0, "11,038 unpublished books, about a billion words", ZHU),
    ("WebText", 2019, 10.0, "8 million pages that Reddit users linked to, 40 GB (tokens: bytes / 4)", RADFORD),
    ("C4", 2020, 156.0, "one crawl of April 2019 through rules, 806 GB", RAFFEL),
    ("The Pile", 2020, 260.0, "22 sources, 825 GiB (tokens: bytes / 3.4)", GAO),
    ("RedPajama", 2023, 1200.0, "LLaMA's recipe, rebuilt in the open", TOUVRON),
    ("RefinedWeb", 2023, 5000.0, "web only; 600 billion published", PENEDO23),
    ("Dolma", 2024, 3000.0, "web, code, papers, books, encyclopedia", SOLDAINI),
    ("FineWeb", 2024, 15_000.0, "96 crawls through rules and deduplication", PENEDO),
    ("DCLM-baseline", 2024, 3800.0, "the best of a pool of 240 trillion, by a classifier", LI),
    ("Nemotron-CC", 2024, 6300.0, "of which 1.9 trillion rephrased by models", SU),
]  # fmt: skip


def main():
    text("# Where the data comes from")
    text("*Lecture 13: sources, the web as stored, and whose text it is*")
    three_stages()
    corpora()
    who_may_crawl()
    one_record()
    html_to_text()
    with tempfile.TemporaryDirectory() as folder:
        documents, truth = a_crawl(Path(folder))
    languages(documents, truth)
    rules(documents, truth)
    personal_data()
    other_sources()
    poisoning()
    copyright_and_consent()
    later_stages()
    synthetic_data()
    summary()


def three_stages():
    text("## What everybody keeps secret")
    text("""
        Companies publish architectures, sometimes weights, hardly ever data. One reason is competition, the other
        lawsuits. Yet data decides more than anything else you can choose: the architecture of lecture 3 is nearly the
        same everywhere. Data comes in three stages, from much and mixed to little and chosen:

        | stage | tokens | text | aim |
        |---|---|---|---|
        | pre-training | trillions | the web, code, books, papers | know the world |
        | mid-training | tens to hundreds of billions | the best of it, mathematics, code, long documents | abilities |
        | post-training | millions to billions | conversations, preferences, tasks with checks | behave |
    """)
    text("""
        *Base model* is what comes after the first two, *chat* or *instruct model* after the third. Borders blur:
        instructions move into mid-training, and rewards reach ever more tasks.
    """)


def corpora():
    text("## A decade of corpora")
    rows = "\n".join(f"| {name} | {year} | {tokens:,.0f} | {made} |" for name, year, tokens, made, _ in CORPORA)
    text("| corpus | year | billion tokens | made of |\n|---|---|---|---|\n{rows}", rows=rows)
    text("""
        Published in {zhu}, {radford}, {raffel}, {gao}, {touvron}, {refined}, {dolma}, {fineweb}, {dclm}, {nemotron}. Three
        numbers to compute from the table:
    """, zhu=ZHU, radford=RADFORD, raffel=RAFFEL, gao=GAO, touvron=TOUVRON, refined=PENEDO23, dolma=SOLDAINI,
         fineweb=PENEDO, dclm=LI, nemotron=SU)  # fmt: skip
    tokens = {name: count for name, _, count, _, _ in CORPORA}
    doubling = 12 * (2024 - 2019) / math.log2(tokens["FineWeb"] / tokens["WebText"])  # @inspect doubling
    bytes_per_token = 806 / tokens["C4"]  # @inspect bytes_per_token
    kept = tokens["DCLM-baseline"] / 240_000  # @inspect kept
    assert 5 < doubling < 7 and 5 < bytes_per_token < 5.3 and 0.015 < kept < 0.017
    text("""
        From WebText to FineWeb open corpora doubled every {doubling:.1f} months. A token of C4 is {bytes:.1f} bytes. DCLM
        keeps {kept:.1%} of its pool: the web is large, what one wants of it is not.
    """, doubling=doubling, bytes=bytes_per_token, kept=kept)  # fmt: skip
    plot(figure_of_corpora(), alt="Points rise from one billion tokens in 2015 to 15,000 billion in 2024.")  # @stepover
    text("""
        What changed besides size: **links as votes** (WebText kept what got 3 votes), a **reference text** as the
        measure (CCNet {ccnet}: perplexity under Wikipedia; GPT-3 {gpt3}: a classifier), **rules only** (MassiveText's of
        Gopher {rae}, RefinedWeb, FineWeb) because classifiers were suspected of bias, and classifiers again (DCLM,
        Nemotron-CC), because they won.
    """, ccnet=WENZEK, gpt3=BROWN, rae=RAE)  # fmt: skip


def figure_of_corpora():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="year", ylabel="billion tokens", yscale="log", xlim=(2014, 2027))
    axes.spines[["top", "right"]].set_visible(False)
    for name, year, tokens, _, _ in CORPORA:
        axes.plot(year, tokens, "o", color=COLOURS[0])
        left, lift = name == "RefinedWeb", {"DCLM-baseline": 1.15, "Dolma": 0.8}.get(name, 1.0)
        axes.annotate(name, (year - 0.2 if left else year + 0.2, tokens * lift), va="center", fontsize=8,
                      ha="right" if left else "left")  # fmt: skip
    return figure


def who_may_crawl():
    text("## The web is not a file")
    text("""
        *The internet* as training data means what a crawler could and was allowed to fetch. Common Crawl, a foundation,
        has published crawls since 2008, by now about one a month with two to three billion pages each, chosen anew and
        far from all of the web. Pages behind logins, apps and scripts are missing. A site says what it allows in `robots.txt`:
    """)
    lines = ["User-agent: GPTBot", "Disallow: /", "", "User-agent: *", "Disallow: /private/"]
    parser = urllib.robotparser.RobotFileParser()
    parser.parse(lines)  # @stepover
    asked = [("GPTBot", "/article"), ("CCBot", "/article"), ("CCBot", "/private/x")]
    allowed = {pair: parser.can_fetch(*pair) for pair in asked}  # @inspect allowed @stepover
    assert list(allowed.values()) == [False, True, False]
    text("""
        This site shuts out one company's crawler but not Common Crawl's, from which that company can take its pages all
        the same. The file is a wish, not a lock, and speaks of *fetching*, not of *training*.
    """)
    quiz("A page was allowed when it was crawled in 2019; today its site forbids it. May C4 keep it?",
         "Technically it is there, for ever. Whether consent can be withdrawn, nobody has settled; some projects remove on "
         "request, and models already trained do not forget.")  # fmt: skip


PAGE = b"""<!DOCTYPE html><html><head><title>The lighthouse</title><script>track();</script></head><body>
<nav><a href="/">Home</a> <a href="/shop">Shop</a> <a href="/login">Log in</a></nav>
<article><h1>The lighthouse</h1><p>The lighthouse at the northern end of the harbour was built of granite, and its
keeper lit the lamp every evening for forty years. When the lamp became electric, he stayed and painted ships.</p>
<p>Visitors climb 199 steps. On clear days they see three islands and the smoke of the ferries.</p></article>
<footer>Cookie settings | Terms of use | Copyright 2021 Harbour Press</footer></body></html>"""


def one_record():
    text("## A page as it is stored")
    text("""
        Common Crawl gives three files for the same pages: **WARC**, all that the server sent; **WAT**, facts about it;
        **WET**, text that somebody else has extracted. A WARC file is a chain of records, each compressed by itself, so
        that one page can be fetched out of the middle of a file. One record, made by hand:
    """)
    content = http_response(PAGE)  # @stepover
    record = warc_record("response", content, record_id="urn:uuid:1", url="https://example.org/lighthouse",
                         content_type="application/http; msgtype=response")  # @stepover  # fmt: skip
    header = record.split(b"\r\n\r\n")[0].decode()  # @inspect header
    member = gzip_member(record)  # @stepover
    sizes = {"page": len(PAGE), "record": len(record), "compressed": len(member)}  # @inspect sizes
    assert sizes["page"] < sizes["record"] and sizes["compressed"] < sizes["record"]
    text("Real files are damaged now and then. Three records, of which the second is broken in the middle:")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "three.warc.gz"
        path.write_bytes(member + break_member(member, random.Random(0)) + member)  # @stepover
        counts = Counter()
        found = list(read_records(path, counts=counts))  # @stepover
    counts = dict(counts)  # @inspect counts
    assert len(found) == 2 and counts == {"records": 2, "record_damaged": 1}
    first = found[0]  # @inspect first.url first.content_type first.date first.payload
    assert first.payload == PAGE
    text("""
        Two are read, one is lost and *counted*. **Trap:** a reader that stops at the first error, or skips in silence,
        loses the rest of a gigabyte without a word. Every record must end in a count: kept, or lost for a reason.
    """)


def html_to_text():
    text("## From HTML to text")
    text("What is the text of that page? Three tools, three answers:")
    methods = {
        name: extract_html(PAGE, method=name) for name in ("plain", "main_content", "trafilatura")
    }  # @inspect methods @stepover
    assert "Cookie settings" in methods["plain"] and "Cookie settings" not in methods["trafilatura"]
    assert all("199 steps" in found for found in methods.values())
    lengths = {name: len(found) for name, found in methods.items()}  # @inspect lengths
    text("""
        `plain` is everything a reader sees, menus included: {plain} characters. `main_content` guesses the article:
        {main}. trafilatura: {trafilatura}. RefinedWeb, FineWeb and DCLM all extract from WARC themselves, and the latter
        two measured better models for it than from the ready WET files: what is not there need not be filtered out.
    """, plain=lengths["plain"], main=lengths["main_content"], trafilatura=lengths["trafilatura"])  # fmt: skip
    text(
        "**Trap: encodings.** Bytes have no letters until somebody says which. Declared Latin-1, any bytes decode without error:"
    )
    data = "caf\u00e9, na\u00efve".encode()
    believed = data.decode("latin-1")  # @inspect believed
    found, encoding = decode_html(data)  # @inspect found encoding @stepover
    assert found == "caf\u00e9, na\u00efve" and believed != found
    text("So our library tries UTF-8 strictly, and asks the bytes, not the server, when that fails.")
    exercise(
        "Extract the text of pages in any encoding.",
        function=extract_text_from_html_bytes,
        test="tests/test_extract.py",
    )


def a_crawl(folder):
    text("## A crawl whose truth is known")
    text("""
        To see what filters do, one needs pages of which one *knows* what they are. Our library makes such a crawl:
        articles (documentation of the Python library), shops and forums, spam, pornography and insults in tame words,
        eight other languages in their encodings, copies, and broken records.
    """)
    options = CrawlOptions(articles=60, reference=0, boilerplate=30, spam=15, adult=8, hostile=8, foreign=30, copies=10,
                           near_copies=5, broken=4, files=1)  # fmt: skip
    manifest = write_crawl(folder, options)  # @stepover
    made = manifest["pages"]  # @inspect made
    counts = Counter()
    records = list(read_records(folder / "warc" / "crawl-00000.warc.gz", counts=counts))  # @stepover
    counts = dict(counts)  # @inspect counts
    documents = [record_to_document(record) for record in records]  # @stepover
    truth = {fact["record_id"]: fact for fact in map(json.loads, (folder / "truth.jsonl").open(encoding="utf-8"))}
    readable = sum(made.values()) - 4
    assert len(documents) == counts["records"] == readable and all(isinstance(d, Document) for d in documents)
    text("""
        {made} pages were written, 4 of them damaged on purpose. {read} records come out, the rest is counted under its
        reason; requests and file information are `other_kind`.
    """, made=sum(made.values()), read=len(documents))  # fmt: skip
    exercise("Look at records of a real crawl, WARC and WET, and write down what they are.", function=read_records,
             test="tests/unit/data/test_warc.py")  # fmt: skip
    return documents, truth


def languages(documents, truth):
    text("### Which language?")
    found = Counter(identify_language(document.text)[0] for document in documents)  # @stepover
    found = dict(found.most_common())  # @inspect found
    wrong = [
        d.id for d in documents if ("en" in identify_language(d.text)) != (truth[d.id]["language"] == "en")
    ]  # @stepover
    assert len(wrong) <= 2
    text("""
        {wrong} of {n} pages are put on the wrong side of *English or not*. On whole pages the identifier is good; lecture
        14 shows where it is not. Each percent that is lost here is lost for ever: nothing later sees these pages.
    """, wrong=len(wrong), n=len(documents))  # fmt: skip


def rules(documents, truth):
    text("### What rules remove, and by which rule")
    text("""
        Rules look at the surface: how many words, how long, how many lines end like a sentence. They are cheap, can be
        explained, and need no examples. Every page is judged by three published sets, and the *first* rule to object is
        written down:
    """)
    english = [document for document in documents if truth[document.id]["language"] == "en"]
    reasons, kept = {}, {}
    for name in ("gopher_quality", "c4", "fineweb_quality"):  # @inspect name
        verdicts = [rule_filter(name)(copy.copy(document)) for document in english]  # @stepover
        reasons[name] = dict(Counter(verdict for verdict in verdicts if verdict))  # @inspect reasons
        stayed = Counter(truth[d.id]["kind"] for d, verdict in zip(english, verdicts, strict=True) if verdict is None)
        kept[name] = dict(stayed)  # @inspect kept
    total = Counter(truth[document.id]["kind"] for document in english)  # @inspect total
    kinds = list(total)
    plot(plot_values(kinds, {name: [kept[name].get(kind, 0) / total[kind] for kind in kinds] for name in kept},
                     ylabel="share of pages kept"),
         alt="Bars: articles are mostly kept by all three sets, menus and spam mostly dropped, insults mostly kept.")  # fmt: skip
    assert all(kept[name]["article"] > 0.75 * total["article"] for name in kept)
    assert (
        all(kept[name].get("spam", 0) == 0 for name in kept) and kept["gopher_quality"]["hostile"] == total["hostile"]
    )
    lost = total["article"] - kept["gopher_quality"]["article"]  # @inspect lost
    text("""
        Most menus and all spam go. Insults stay, and pornography with two sets of three: rules judge form. And {lost} of {n} articles
        are lost to Gopher's rules, documentation with many symbols among its words. **Trap:** a rule is always tuned on
        *some* kind of text. Code, poems, tables and dialogue fail rules made for prose:
    """, lost=lost, n=total["article"])  # fmt: skip
    poem = "\n".join(["The tide went out,", "the boats lay down,", "and no one spoke", "in all the town."] * 4)
    verdict = rule_filter("fineweb_quality")(Document("poem", "", poem))  # @inspect verdict @stepover
    assert verdict is not None
    exercise("Write four of Gopher's rules and read what they reject.", function=gopher_quality_filter,
             test="tests/test_quality.py")  # fmt: skip


def personal_data():
    text("## Personal data")
    sample = "Write to ada@example.org or call (212) 555-0100. Version 10.0.0.1.2 runs on 192.0.2.7 since 1718000000."
    spans = find_spans(sample)  # @inspect spans @stepover
    masked, counts = mask_pii(sample)  # @inspect masked counts @stepover
    assert dict(counts) == {"email": 1, "phone": 1, "ip": 1} and "10.0.0.1.2" in masked
    text("""
        Patterns find addresses, telephone and IP numbers; a version with five parts and a time in seconds must *not* be
        found. A mask keeps the sentence readable and teaches the model the mask: expect to see it in its output.
        What patterns cannot find, a name with a story, is the larger part of privacy.
    """)
    exercise("Mask e-mail addresses, then telephone and IP numbers.", function=mask_emails, test="tests/test_pii.py")


def other_sources():
    text("## Better than the web: sources with editors")
    text("""
        | source | size | why | mind |
        |---|---|---|---|
        | Wikipedia | 60 million articles in some 300 languages | neutral, cited, edited | no opinions, no recipes, little how-to |
        | Project Gutenberg | 75,000 books | long, edited, out of copyright | the language of a century ago |
        | Books3 | 196,640 books | long, recent | copied from a shadow library; taken down in 2023 |
        | Stack Exchange | questions with votes | already instruction data | terms of use changed |
        | GitHub | The Stack {stack}: 3.1 TB permissive code | code teaches structure | licences, copies, secrets |
        | arXiv, PubMed | papers as LaTeX and XML | mathematics, method | formulas from PDF are hard |
    """, stack=KOCETKOV)  # fmt: skip
    text("""
        Small sources are read several times, the web hardly once. By size the encyclopedia would vanish; in GPT-3 it had
        3% of the mixture and was read some three times, while the crawl was read less than half. Sizes here are as published and
        rounded; they grow.
    """)
    gpt3 = {
        "Common Crawl": (410, 0.60),
        "WebText2": (19, 0.22),
        "Books1": (12, 0.08),
        "Books2": (55, 0.08),
        "Wikipedia": (3, 0.03),
    }
    epochs = {name: round(300 * weight / billions, 2) for name, (billions, weight) in gpt3.items()}  # @inspect epochs
    assert 0.4 < epochs["Common Crawl"] < 0.5 and epochs["Wikipedia"] == 3.0
    text("""
        Computed from the weights and sizes of its published table, for 300 billion tokens. **Trap:** the same table says 3.4
        for Wikipedia, where this gives {wiki:.1f}, and 2.9 for WebText2 instead of {web:.1f}: its columns do not quite agree.
        Recompute what reports tell.
    """, wiki=epochs["Wikipedia"], web=epochs["WebText2"])  # fmt: skip


def poisoning():
    text("## Poison")
    text(r"""
        Anybody can edit Wikipedia, and vandalism is soon reverted. But models are trained on *dumps* made at times one can
        foresee. {carlini}: edit just before the dump, and the reverted text is in it for good. If reverts come at a
        constant rate with half-life $h$, an edit made $t$ before the snapshot of its page survives with $2^{-t/h}$.
    """, carlini=CARLINI)  # fmt: skip
    half_life = 2.0  # hours, assumed for illustration
    leads = np.array([0.1, 1.0, 6.0, 24.0])  # hours between edit and snapshot
    survives = 2 ** (-leads / half_life)  # @inspect survives
    reverted = np.random.default_rng(0).exponential(half_life / math.log(2), size=(20_000, 1))
    simulated = (reverted > leads).mean(axis=0)  # @inspect simulated
    assert np.allclose(simulated, survives, atol=0.012)
    text("""
        Six minutes before, {soon:.0%} survive; a day before, {late:.2%}. The authors estimate that 6.5% of the articles
        could have been poisoned, and show the same for lists of links: whoever buys an expired domain writes what the
        next download reads. Defences: random times, a delay after edits, checksums of what was seen first.
    """, soon=survives[0], late=survives[3])  # fmt: skip


def copyright_and_consent():
    text("## Whose text is it?")
    note("This is no legal advice, and the law differs by country and changes.")
    text("""
        Nearly everything written is under **copyright** from the moment it is written, without a notice, until 70 years
        after its author's death (in the United States, older works: 95 years after publication). It protects the
        *expression*, not facts or ideas. To copy, one needs a **licence** or an exception.
    """)
    year = 2026
    free_until = year - 95 - 1  # published in that year or before: the term has run out  @inspect free_until
    assert free_until == 1930
    text("""
        In {year} the American public domain holds what was published up to {free}: a corpus of it has no computers. In the
        United States the exception is **fair use**, decided case by case by four factors:

        | factor | for training | against |
        |---|---|---|
        | purpose: is it transformed? | a model is not a book | it is commercial |
        | nature of the work | facts are freer | fiction is not |
        | how much is taken | it is not shown again | all of it is copied |
        | effect on the market | no substitute for one work | it may compete with all, and licences are sold |
    """, year=year, free=free_until)  # fmt: skip
    text("""
        Copying to train and *reciting* are two questions: a model that writes pages of a book letter by letter harms the
        fourth factor most, and deduplication lowers the risk. **Terms of use** are a third thing: a contract may forbid
        downloading what copyright would allow. What remains if one takes only what is free?
    """)
    pages = [
        ("cc-by", 5200),
        ("cc0", 900),
        ("all rights reserved", 61_000),
        ("cc-by-nc", 2600),
        ("mit", 3100),
        ("unknown", 27_000),
    ]
    free = {"cc-by", "cc0", "cc-by-sa", "mit", "apache-2.0", "public domain"}
    share = sum(tokens for licence, tokens in pages if licence in free) / sum(
        tokens for _, tokens in pages
    )  # @inspect share
    assert 0.05 < share < 0.15
    text("""
        In this made-up sample {share:.0%} of the tokens: *non-commercial* is not free, *unknown* means no. The Common Pile
        {kandpal} gathered 8 TB this way. **Trap:** licence laundering, a site that puts a free licence on what it copied.
    """, share=share, kandpal=KANDPAL)  # fmt: skip
    text("""
        Consent is shrinking. {longpre} followed `robots.txt` and terms of use over time: within a year, 5% of all tokens of C4
        and 28% of those from its most actively maintained sites became restricted. The open web of the last decade is not
        a resource that renews itself.
    """, longpre=LONGPRE)  # fmt: skip


def later_stages():
    text("## After pre-training: long documents and instructions")
    text("""
        **Long context.** A model that shall read 100,000 tokens must be shown texts that long in which the end depends on
        the beginning. Suppose lengths are log-normal with a median of 500 tokens and a spread of a factor of 3:
    """)
    lengths = np.random.default_rng(0).lognormal(math.log(500), math.log(3), 200_000)
    share = {
        n: (np.mean(lengths > n), lengths[lengths > n].sum() / lengths.sum()) for n in (2048, 8192, 32_768)
    }  # @inspect share
    assert share[32_768][0] < 0.001 and share[8192][1] > 5 * share[8192][0]
    text("""
        Longer than 8192 tokens are {documents:.2%} of the documents with {tokens:.1%} of the tokens; longer than 32,768 next
        to none. So books, code repositories (files in order of import) and papers are raised in a short last phase.
    """, documents=share[8192][0], tokens=share[8192][1])  # fmt: skip
    text("""
        **Instructions** come from three wells: tasks of the research community in templates, people who are paid to write,
        and models: {wang} let a model invent instructions and answer them. **Trap:** terms of use of many models forbid
        training competitors on their output, and a student learns the style of its teacher before its knowledge.
    """, wang=WANG)  # fmt: skip


def synthetic_data():
    text("## Synthetic data, and how it goes wrong")
    text("""
        Models rewrite pages as encyclopedia entries or as questions and answers {maini}, a third of Nemotron-CC is of that
        kind, and textbooks written by models taught small ones to program {phi}. Where facts come from real pages and only
        the form is new, it works. But what if models train on models, again and again {shumailov}? The smallest case: fit a
        normal distribution to 20 samples, draw 20 from it, fit again.
    """, maini=MAINI, phi=GUNASEKAR, shumailov=SHUMAILOV)  # fmt: skip
    curves = {f"{fresh:.0%} real": generations(fresh) for fresh in (0.0, 0.1, 0.5)}
    plot(plot_overlaid_curves({name: list(enumerate(curve)) for name, curve in curves.items()}, xlabel="generation",
                              ylabel="median standard deviation"),
         alt="Without real data the spread falls toward zero over 100 generations; with some real data it stays up.")  # fmt: skip
    last = {name: curve[-1] for name, curve in curves.items()}  # @inspect last
    assert last["0% real"] < 0.3 < 0.5 < last["10% real"] < last["50% real"]
    text(r"""
        In each generation $E[\log s^2] < \log \sigma^2$: rare values are missed a little more often than invented, and
        what is missed never comes back. After 100 generations the spread is {none:.2f} of 1 without real data, {some:.2f} with
        a tenth of real samples. The tails, rare words, rare views, rare languages, go first.
    """, none=last["0% real"], some=last["10% real"])  # fmt: skip
    quiz("Why does rejection sampling with a checker (keep only proofs that verify) not collapse in the same way?",
         "The checker brings in information from outside. What collapses then is variety, not correctness: only kinds of "
         "proofs that the model already finds are kept.")  # fmt: skip


def generations(fresh, count=100, n=20, repeats=300):
    """Median over repeats of the standard deviation fitted in each generation; `fresh` is the share of real samples."""
    rng = np.random.default_rng(0)  # @inspect fresh
    mean, deviation, curve = np.zeros(repeats), np.ones(repeats), [1.0]
    real = round(fresh * n)
    for _ in range(count):  # @every 20
        samples = mean[:, None] + deviation[:, None] * rng.standard_normal((repeats, n))
        samples[:, :real] = rng.standard_normal((repeats, real))
        mean, deviation = samples.mean(axis=1), samples.std(axis=1, ddof=1)
        spread = float(np.median(deviation))  # @inspect spread
        curve.append(spread)
    return curve


def summary():
    text("## What to take home")
    text("""
        - Data does not fall from the sky: every step, from `robots.txt` to the extractor, chooses.
        - Keep the raw bytes, count every loss, look at what each rule removes.
        - Rules judge form; what is fluent and harmful passes, what is good and unusual fails.
        - Law, licences, terms of use and consent are four different things.
        - Synthetic text adds form. Information comes from the world or from a checker.
    """)
    text("*Next: how to choose among what one has.*")


if __name__ == "__main__":
    main()
