"""Choosing data: filtering, deduplication, mixing.

Lecture 14 of the course: scores for documents (n-gram perplexity, a classifier, importance weights), language and
toxicity, hashing, Bloom filters, MinHash with LSH, repeated passages, and how sources are mixed. It prepares
assignment 4. Left out: where the data comes from (lecture 13). Read next: `lecture_15.py`.
"""

import math
import os
import random
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from subprocess import check_output

import numpy as np

from cs336_basics.runs.plots import plot_overlaid_curves, plot_values
from cs336_data.classifiers.evaluation import threshold_sweep
from cs336_data.deduplication.bloom import BloomFilter
from cs336_data.deduplication.exact_lines import deduplicate_lines
from cs336_data.deduplication.lsh import band_keys, candidate_pairs, candidate_probability
from cs336_data.deduplication.minhash import MinHashConfig, estimated_jaccard, signature, signatures
from cs336_data.deduplication.near_duplicates import deduplicate_near
from cs336_data.deduplication.shingles import jaccard, mix, normalize, shingle_hashes, shingles
from cs336_data.deduplication.union_find import UnionFind
from cs336_data.language import identify_language
from cs336_data.mixing import plan_mixture
from cs336_data.quality_classifier import classify_quality
from cs336_data.toxicity import classify_toxic_speech
from cs336_data.training.quality_pages import docstring_paragraphs, pages
from lectures.content import Reference, exercise, plot, quiz, text


def cite(title, authors, year, arxiv=""):  # @stepover @hide
    url = f"https://arxiv.org/abs/{arxiv}" if arxiv else None  # @hide
    return Reference(title=title, authors=authors.split(", "), date=str(year), url=url)  # @hide


BLOOM = cite("Space/Time Trade-offs in Hash Coding with Allowable Errors", "Burton Bloom", 1970)
KNESER = cite("Improved Backing-Off for M-gram Language Modeling", "Reinhard Kneser, Hermann Ney", 1995)
BRODER = cite("On the Resemblance and Containment of Documents", "Andrei Broder", 1997)
KENLM = cite("KenLM: Faster and Smaller Language Model Queries", "Kenneth Heafield", 2011)
JOULIN = cite("Bag of Tricks for Efficient Text Classification", "Armand Joulin, Edouard Grave", 2016, "1607.01759")
WENZEK = cite("CCNet: Extracting High Quality Monolingual Datasets from Web Crawl Data",
              "Guillaume Wenzek, Marie-Anne Lachaux", 2019, "1911.00359")  # fmt: skip
BROWN = cite("Language Models are Few-Shot Learners", "Tom Brown, Benjamin Mann", 2020, "2005.14165")
LEE = cite("Deduplicating Training Data Makes Language Models Better", "Katherine Lee, et al.", 2022, "2107.06499")
XIE = cite("Data Selection for Language Models via Importance Resampling", "Sang Xie, et al.", 2023, "2302.03169")
CHUNG = cite("UniMax: Fairer and More Effective Language Sampling for Large-Scale Multilingual Pretraining",
             "Hyung Won Chung, Noah Constant", 2023, "2304.09151")  # fmt: skip
MUENNIGHOFF = cite("Scaling Data-Constrained Language Models", "Niklas Muennighoff, Alexander Rush", 2023, "2305.16264")
PASTER = cite("OpenWebMath: An Open Dataset of High-Quality Mathematical Web Text", "Keiran Paster, et al.", 2023)
GOYAL = cite("Scaling Laws for Data Filtering -- Data Curation cannot be Compute Agnostic",
             "Sachin Goyal, Pratyush Maini", 2024, "2404.07177")  # fmt: skip
JIMENEZ = cite("SWE-bench: Can Language Models Resolve Real-World GitHub Issues?", "Carlos Jimenez, et al.", 2024)
REGMIX = cite("RegMix: Data Mixture as Regression for Language Model Pre-training", "Qian Liu, et al.", 2024)


def main():
    text("# Choosing data")
    text("*Lecture 14: filtering, deduplication, mixing*")
    the_task()
    target, held_out, raw = texts()  # @stepover
    model = ngram_perplexity(target, held_out)
    a_classifier(model, target, held_out, raw)
    importance_resampling(target, held_out, raw)
    language_and_toxicity()
    hashing()
    exact_duplicates()
    bloom_filters()
    min_hash()
    locality_sensitive_hashing(held_out)
    repeated_passages(held_out)
    filtering_depends_on_scale()
    mixing()
    mixing_by_regression()
    summary()


def the_task():
    text("## One task in many forms")
    text("""
        Given a little text of the kind we want, the **target** $T$, and much **raw** text $R$, find the part of $R$ that
        is like $T$. Be the kind a language, a level of quality, or mathematics, the recipe is the same: fit a model to
        $T$ (and $R$), score every document, keep those with a good score. Three families of scores cover practice:

        | score | model | keep if |
        |---|---|---|
        | $p_T(x)$ | a language model of the target | the text is probable: low perplexity |
        | $p(T \\mid x)$ | a classifier, target against raw | it is probably target |
        | $p_T(x) / p_R(x)$ | two generative models | resampled with this weight |
    """)
    text("The method reads all of $R$. Let 1% of it be kept, and a model of 1 billion parameters be trained on that:")
    train, judge = 6 * 1e9 * 0.01, 2 * 1e8  # FLOPs per raw token: 6N for the hundredth kept, 2N to read all
    ratio = judge / train  # @inspect train judge ratio
    text("""
        Reading all with a Transformer of a mere 100 million parameters costs {ratio:.1f} times the training. So filters
        are n-gram models and linear classifiers; a large model at most judges examples that these learn from.
    """, ratio=ratio)  # fmt: skip


def texts():
    prose = list(docstring_paragraphs())
    random.Random(0).shuffle(prose)
    raw = [page.text for page in pages(700, seed=3) if not page.good]
    return prose[:900], prose[900:1200], raw


def ngram_model(documents, discount=0.75):
    """p(word | two words) with interpolated Kneser-Ney smoothing; unknown words get the last resort, 1 / V."""
    grams = [{}, {}, {}]  # by length: how often (three words), or after how many different words (one and two)
    for document in documents:
        words = with_ends(document)
        for gram in zip(words, words[1:], words[2:], strict=False):
            grams[2][gram] = grams[2].get(gram, 0) + 1
    for length in (2, 1):
        for gram in grams[length]:
            grams[length - 1][gram[1:]] = grams[length - 1].get(gram[1:], 0) + 1
    after = defaultdict(dict)
    for gram, count in (grams[0] | grams[1] | grams[2]).items():
        after[gram[:-1]][gram[-1]] = count
    totals = {context: sum(counts.values()) for context, counts in after.items()}

    def probability(context, word):
        shorter = probability(context[1:], word) if context else 1 / (len(grams[0]) + 1)
        if context not in totals:
            return shorter
        counts, total = after[context], totals[context]
        return (max(counts.get(word, 0) - discount, 0) + discount * len(counts) * shorter) / total

    return probability, [word for (word,) in grams[0]]


def with_ends(document):
    return ["<s>", "<s>", *normalize(document).split(), "</s>"]


def perplexity(model, document):
    words = with_ends(document)
    logs = [math.log(model((a, b), c)) for a, b, c in zip(words, words[1:], words[2:], strict=False)]
    return math.exp(-sum(logs) / len(logs))


def ngram_perplexity(target, held_out):
    text("## Score 1: is it probable under a model of the target?")
    text(r"""
        An n-gram model counts: $\hat p(w \mid u, v) = \#(u v w) / \#(u v)$. Most trigrams never occur, so some
        probability is taken from those that did and given to shorter contexts. Kneser and Ney {kneser} subtract a
        discount $D$ from every count,

        $$p(w \mid u, v) = \frac{\max(\#(uvw) - D,\, 0)}{\#(uv)} + \frac{D \cdot N(uv)}{\#(uv)}\; p(w \mid v),$$

        where $N(uv)$ counts the different words seen after $uv$, and in the shorter contexts count the *different
        words before*, not occurrences. KenLM {kenlm} does this for billions of words. Our own, on {n} paragraphs
        of documentation:
    """, kneser=KNESER, kenlm=KENLM, n=len(target))  # fmt: skip
    model, vocabulary = ngram_model(target)  # @stepover
    total = sum(model(("the", "file"), word) for word in [*vocabulary, "(any other)"])  # @inspect total @stepover
    assert abs(total - 1) < 1e-9
    text("The probabilities after *the file* sum to one. Three texts, and the median of 99 new paragraphs:")
    examples = {"administration": "The committee has approved the minutes of the meeting of last month.",
                "keyboard": "asdf " * 6, "the the the": "the " * 16}  # fmt: skip
    scores = {name: perplexity(model, words) for name, words in examples.items()}  # @stepover
    scores["documentation"] = float(np.median([perplexity(model, d) for d in held_out[:99]]))  # @stepover
    ranked = dict(sorted(scores.items(), key=lambda item: item[1]))  # @inspect ranked
    assert list(ranked) == ["the the the", "documentation", "administration", "keyboard"]
    text("""
        Prose of the right kind {good:.0f}, of another kind {other:.0f}, keys at random {keys:,.0f}: as it should be.
        But **the trap**: sixteen times *the* scores {the:.0f}, better than typical honest text, because frequent words
        are probable. (A public lecture shows 187 for prose, 204 for administrative text, 272 for *asdf* and 63 for
        *the the the* with KenLM on Wikipedia. We have no KenLM here; the trap is the same.) So rules against repetition
        belong beside it, and CCNet {wenzek} sorts into thirds by perplexity without calling the lowest the best.
    """, good=ranked["documentation"], other=ranked["administration"], keys=ranked["keyboard"],
         the=ranked["the the the"], wenzek=WENZEK)  # fmt: skip
    return model


def hashed_counts(documents, bins=2048):
    """Words and word pairs of each document, counted in the bin that their hash falls into: (documents, bins)."""
    hashes = [np.concatenate([shingle_hashes(d, 1), shingle_hashes(d, 2)]) % np.uint64(bins) for d in documents]
    return np.array([np.bincount(h.astype(int), minlength=bins) for h in hashes], dtype=np.float32)


def a_classifier(model, target, held_out, raw):
    text("## Score 2: can a classifier tell it from raw text?")
    text("""
        fastText {joulin} is a linear classifier over words and word pairs; it trains on a billion words in ten minutes.
        A bag of $V$ words with $K$ classes needs $VK$ weights, pairs of words would need $V^2 K$. The **hashing trick**
        caps it: a feature's weight is the one in bin `hash(feature) % bins`. Collisions blur a little.
    """, joulin=JOULIN)  # fmt: skip
    vocabulary = len({word for document in target for word in normalize(document).split()})
    table = {"words": vocabulary, "pairs": vocabulary**2, "bins": 2048}  # @inspect table
    x = hashed_counts([*target[:250], *raw[:250]])  # @inspect x.shape @stepover
    weights = fit_logistic(x / np.linalg.norm(x, axis=1, keepdims=True), np.repeat(np.float32([1, 0]), 250))
    scores = scores_of(weights, [*held_out[:100], *raw[250:350]])  # @stepover
    right = np.mean(scores[:100] > 0.5), np.mean(scores[100:] <= 0.5)  # @inspect right
    assert min(right) > 0.9
    text("""
        On texts it has not seen, {a:.0%} of documentation and {b:.0%} of raw pages are recognised. What is kept is
        a choice, and a sweep shows what each threshold would do:
    """, a=right[0], b=right[1])  # fmt: skip
    rows = threshold_sweep(scores, [True] * 100 + [False] * 100, thresholds=[0.3, 0.5, 0.9])  # @inspect rows @stepover
    text("**Trap:** the classifier sees no order. Shuffle the words of a good page:")
    longest = max(held_out, key=len)
    salad = normalize(longest).split()
    random.Random(1).shuffle(salad)
    fooled = scores_of(weights, [" ".join(salad)])[0]  # @inspect fooled @stepover
    page, mixed = perplexity(model, longest), perplexity(model, " ".join(salad))  # @inspect page mixed @stepover
    assert fooled > 0.5 and mixed > 1.5 * page
    text("""
        The salad still counts as target ({salad:.2f}); its perplexity rises from {low:.0f} to {high:.0f}. And a
        classifier learns the *difference of the two samples*: if all good examples are on chemistry, it finds chemistry.
    """, salad=fooled, low=page, high=mixed)  # fmt: skip
    soft_threshold()


def fit_logistic(x, y, steps=150, rate=20.0):
    weights = np.zeros(x.shape[1], dtype=np.float32)
    for _ in range(steps):  # @every 50
        p = 1 / (1 + np.exp(-(x @ weights)))
        loss = -np.mean(np.log(np.where(y == 1, p, 1 - p)))  # @inspect loss
        weights -= rate * (p - y) @ x / len(y)
    return weights


def scores_of(weights, documents):
    counts = hashed_counts(documents)
    return 1 / (1 + np.exp(-(counts @ weights) / np.linalg.norm(counts, axis=1)))


def soft_threshold():
    text("### A threshold with a soft edge")
    text(r"""
        GPT-3 {brown} kept a document of score $s$ if a draw `np.random.pareto(9)` exceeds $1 - s$. NumPy's Pareto has
        $P(X > x) = (1 + x)^{-9}$, so $P(\text{keep}) = (2 - s)^{-9}$.
    """, brown=BROWN)  # fmt: skip
    draws = np.random.default_rng(0).pareto(9, 200_000)
    keep = {s: (np.mean(draws > 1 - s), (2 - s) ** -9) for s in (0.0, 0.5, 0.9, 1.0)}  # @inspect keep
    assert all(abs(measured - formula) < 0.003 for measured, formula in keep.values())
    text("""
        A page rated 0.9 stays with probability {high:.2f}, one rated 0.5 with {middle:.3f}, the worst with {low:.3f}.
    """, high=keep[0.9][1], middle=keep[0.5][1], low=keep[0.0][1])  # fmt: skip
    exercise("Train a classifier, choose its threshold.", function=classify_quality, test="tests/test_quality.py")


def importance_resampling(target, held_out, raw):
    text("## Score 3: resample until the distribution fits")
    text(r"""
        Both scores above keep what is *most* typical. The goal might rather be a sample *distributed* like the target.
        Drawn from $R$ with weight $w = p_T / p_R$, each $x$ appears with probability $\propto p_R(x)\, w(x) = p_T(x)$:
    """)
    rng = np.random.default_rng(0)
    p_target, p_raw = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.3, 0.2, 0.1])
    drawn = rng.choice(4, size=100, p=p_raw)  # @inspect drawn
    weights = (p_target / p_raw)[drawn]
    weights /= weights.sum()
    resampled = rng.choice(drawn, size=100, p=weights)
    shares = np.bincount(drawn, minlength=4) / 100, np.bincount(resampled, minlength=4) / 100  # @inspect shares
    assert np.abs(shares[1] - p_target).sum() < np.abs(shares[0] - p_target).sum() / 2
    text("""
        From raw shares near 0.4, 0.3, 0.2, 0.1 to shares near 0.1, 0.2, 0.3, 0.4. For documents, DSIR {xie} models $p_T$
        and $p_R$ as hashed n-grams drawn independently. To draw $k$ documents without replacement, add Gumbel noise to
        the log weights and take the $k$ largest.
    """, xie=XIE)  # fmt: skip
    pool = [*held_out[:60], *raw[:240]]
    counts = hashed_counts(pool)  # @inspect counts.shape @stepover
    p_t, p_r = hashed_counts(target[:250]).sum(axis=0) + 1, counts.sum(axis=0) + 1  # @stepover
    log_weights = counts @ (np.log(p_t / p_t.sum()) - np.log(p_r / p_r.sum()))
    chosen = np.argsort(log_weights + rng.gumbel(size=len(pool)))[-60:]
    precision = np.mean(chosen < 60)  # @inspect precision
    assert precision > 0.8
    text("""
        {share:.0%} of the 60 drawn are documentation, a fifth of the pool. **Trap:** the log weight is a sum over n-grams,
        so long documents have extreme weights, and the noise decides nothing.
    """, share=precision)  # fmt: skip
    correlation = np.corrcoef(counts.sum(axis=1)[:60], log_weights[:60])[0, 1]  # @inspect correlation
    assert correlation > 0.5


def language_and_toxicity():
    text("## The same recipe for language, mathematics, toxicity")
    text("**Language.** fastText's identifier knows 176 languages, and fails on what is short, mixed or none:")
    samples = {
        "prose": "The results were published last year and have been discussed ever since.", "one word": "Hello.",
        "code": "for i in range(10): print(i, end=', ')", "formula": "\\frac{a}{b} = \\sum_{i=1}^n x_i^2",
        "French": "Le conseil se compose de sept membres, qui sont nomm\u00e9s pour quatre ans.",
    }  # fmt: skip
    languages = {name: identify_language(sample) for name, sample in samples.items()}  # @inspect languages @stepover
    assert languages["prose"][0] == "en" and languages["prose"][1] > 0.9 and languages["French"][0] == "fr"
    weakest = min(languages[name][1] for name in ("one word", "code", "formula"))  # @inspect weakest
    assert weakest < 0.65
    text("At the usual threshold of 0.65 formulas or code are at risk: look for mathematics *before* this filter.")
    text("""
        **Mathematics.** OpenWebMath {paster} chains three filters: rules (is there LaTeX?), an n-gram model of proofs
        (perplexity below 15,000) and a classifier, whose threshold is 0.17 for pages with LaTeX and 0.8 for others. On
        the resulting 14.7 billion tokens models learnt more mathematics than on 20 times as much general text.
    """, paster=PASTER)  # fmt: skip
    text("**Toxicity.** A classifier again (ours learnt from sentences made for it, public ones from rated comments):")
    remarks = ["Thank you, that was a great help.", "You are an idiot and nobody likes you."]
    verdicts = [classify_toxic_speech(remark) for remark in remarks]  # @inspect verdicts @stepover
    assert [label for label, _ in verdicts] == ["non-toxic", "toxic"]
    text("**Trap:** they also remove people who *report* insults, dialects, and medical or legal texts.")
    exercise("Identify languages, and look at errors.", function=identify_language, test="tests/test_langid.py")
    exercise("Find harmful text.", function=classify_toxic_speech, test="tests/test_toxicity.py")


def hashing():
    text("## Duplicates: why, and the tool")
    text("""
        A raw crawl repeats itself: mirrors, licences, menus, one page under many addresses. Duplicates waste compute,
        make models recite {lee} and let test questions slip into training. Comparing all pairs is out of the question.
        So all that follows is built on **hashing**: equal things get equal numbers, different ones look random.
    """, lee=LEE)  # fmt: skip
    text(r"Among $n$ items, $b$-bit hashes collide in about $n^2 / 2^{b+1}$ pairs, each with probability $2^{-b}$:")
    n = 300_000
    hashes = mix(np.arange(n, dtype=np.uint64)) >> np.uint64(32)  # the upper 32 bits
    collisions = n - len(np.unique(hashes))  # @inspect collisions
    expected, expected_64 = n**2 / 2**33, 1e9**2 / 2**65  # @inspect expected expected_64
    assert abs(collisions - expected) < 5 * math.sqrt(expected) and 0.02 < expected_64 < 0.03
    text("""
        300,000 items in 32 bits: {seen} collisions, {expected:.0f} expected. A billion in 64 bits: {rare:.3f}. So 64
        bits do, and a fast hash does: a cryptographic one only defends against an opponent.
    """, seen=collisions, expected=expected, rare=expected_64)  # fmt: skip
    text("**Trap:** Python's own `hash` of a string differs from process to process:")
    command = [sys.executable, "-S", "-c", "print(hash('page'))"]  # unless PYTHONHASHSEED is set, its seed is random
    values = [check_output(command, env={**os.environ, "PYTHONHASHSEED": n}) for n in "12"]  # @inspect values
    assert values[0] != values[1]
    text("Whoever hashes with it in several workers, or today and tomorrow, finds no duplicates and no error message.")


def exact_duplicates():
    text("### Exact duplicates")
    text("""
        What is compared, and how many copies stay? C4 kept one copy of any three sentences in a row; our assignment
        removes each line that occurs twice anywhere, first copy and all, because such lines are menus.
    """)
    documents = ["Menu\nA fine story.", "Menu\nAnother story.", "menu\nA  fine story!"]
    counts = Counter(line for document in documents for line in document.split("\n"))  # @inspect counts
    kept = ["\n".join(line for line in d.split("\n") if counts[line] == 1) for d in documents]  # @inspect kept
    assert kept == ["A fine story.", "Another story.", "menu\nA  fine story!"]
    text("""
        Exact means exact: *menu* is not *Menu*, unless case, accents and punctuation are normalised first. And what is
        cut from the middle leaves a text with a gap.
    """)
    exercise("Remove repeated lines.", function=deduplicate_lines, test="tests/test_deduplication.py")


def bloom_filters():
    text("## Bloom filters: a set in a few bits per element")
    text(r"""
        Have we seen this line? A set of hashes answers exactly, with 64 bits each. A Bloom filter {bloom} has $m$
        bits, at first 0. Adding $x$ sets the $k$ bits $h_1(x), \ldots, h_k(x)$; if all $k$ bits of a query are set, it
        answers *perhaps*, else *certainly not*. After $n$ additions a bit is still 0 with probability
        $(1 - 1/m)^{kn} \approx e^{-kn/m}$, so a query for something new is wrong with probability about

        $$f = \left(1 - e^{-kn/m}\right)^k .$$
    """, bloom=BLOOM)  # fmt: skip
    m, n = 1000, 100
    rate = {k: (1 - (1 - 1 / m) ** (k * n)) ** k for k in range(1, 21)}
    text(r"""
        More probes test more bits but fill the array faster. With $p = e^{-kn/m}$, $\ln f = -\frac{m}{n} \ln p \ln(1 - p)$
        is symmetric in $p$ and $1 - p$, and least at $p = 1/2$:
        $$k^* = \frac{m}{n} \ln 2, \qquad f^* = 2^{-k^*} \approx 0.6185^{\,m/n} .$$
    """)
    best = m / n * math.log(2)
    found = {"k = 10": rate[10], "best k": best, "at best k": 0.5**best}  # @inspect found
    assert [round(value, 4) for value in found.values()] == [0.0102, 6.9315, 0.0082]
    measured = {k: measured_rate(m, n, k) for k in (1, 2, 4, 7, 10, 15, 20)}  # @inspect measured @stepover
    assert all(abs(measured[k] - rate[k]) < 0.15 * rate[k] + 0.002 for k in measured)
    plot(plot_overlaid_curves({"formula": list(rate.items()), "measured": list(measured.items())}, xlabel="k, probes",
                              ylabel="false positives among new items", logarithmic=True),
         alt="False positive rate against k for 1000 bits and 100 items: a minimum near 7 on which both curves agree.")  # fmt: skip
    text("**Trap:** divide by the queries that are *not* in the set. The library chooses $m$ and $k$ for a rate:")
    library = BloomFilter(10_000, 0.01)  # @inspect library.num_probes @stepover
    library.add(np.arange(10_000, dtype=np.uint64))  # @stepover
    wrong = library.contains(np.arange(10_000, 50_000, dtype=np.uint64)).mean()  # @inspect wrong @stepover
    bits_per_item = library.num_bits / 10_000  # @inspect bits_per_item
    assert abs(wrong - 0.01) < 0.002 and 9.5 < bits_per_item < 9.7
    text("""
        {bits:.1f} bits per item for 1%, and {wrong:.2%} measured. But a false positive *deletes something unique*; and
        what is beyond the capacity fills the array until everything is a duplicate.
    """, bits=bits_per_item, wrong=wrong)  # fmt: skip
    more = math.log(10) / -math.log(0.6185)
    quiz("A filter is built for 1%. How many more bits per item does 0.1% need?",
         r"$f = 0.6185^{m/n}$: a factor of 10 costs $\ln 10 / \ln(1/0.6185) =$ {more:.1f} bits.", more=more)  # fmt: skip


def measured_rate(m, n, k, filters=20, queries=3000):
    wrong = 0
    for seed in range(filters):
        items = np.arange(n + queries, dtype=np.uint64)[:, None] + np.uint64(seed << 32)
        places = mix(mix(items) + np.arange(1, k + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) % np.uint64(m)
        bits = np.zeros(m, dtype=bool)
        bits[places[:n]] = True
        wrong += bits[places[n:]].all(axis=1).sum()
    return wrong / (filters * queries)


def min_hash():
    text("## Nearly the same: MinHash")
    text(r"""
        Two copies of a licence differ in a name and a year. As sets of shingles (five words in a row) they are nearly
        equal, as the **Jaccard similarity** $J(A, B) = |A \cap B| / |A \cup B|$ says.
    """)
    a, b = {1, 2, 3, 4}, {1, 2, 3, 5}
    similarity = jaccard(a, b)  # @inspect similarity @stepover
    assert similarity == 0.6
    text(r"""
        MinHash {broder} is a hash function that collides *exactly as often as two sets are similar*:
        $$h_{\min}(A) = \min_{x \in A} h(x), \qquad P\big(h_{\min}(A) = h_{\min}(B)\big) = J(A, B).$$

        **Proof.** $h$ puts the elements of $A \cup B$ into random order. The two minima agree exactly if the first
        element of that order lies in both sets. Each of the $|A \cup B|$ elements is first equally often, and
        $|A \cap B|$ of them are in both.
    """, broder=BRODER)  # fmt: skip
    hashed = [mix(np.array(sorted(items), dtype=np.uint64)) for items in (a, b)]
    estimates = {}  # @inspect estimates
    for k in (100, 1000, 10_000):  # @inspect k
        config = MinHashConfig(num_hashes=k, num_bands=1)
        estimates[k] = estimated_jaccard(*(signature(h, config) for h in hashed))  # @stepover
        assert abs(estimates[k] - similarity) < 3 * math.sqrt(similarity * (1 - similarity) / k)
    text("""
        The share of $k$ hash functions that agree estimates $J = 0.6$ with a standard deviation of $\\sqrt{J (1 - J) / k}$,
        0.049 for 100: here {few:.2f}, then {more:.3f} and {many:.3f}. A document of any length becomes $k$ numbers.
    """, few=estimates[100], more=estimates[1000], many=estimates[10_000])  # fmt: skip


def locality_sensitive_hashing(documents):
    text("### From similarity to a threshold, without all pairs")
    text(r"""
        Cut the signature into $b$ **bands** of $r$ rows, and compare only documents that agree in *all* rows of *some*
        band. One band agrees with probability $s^r$, so

        $$P(\text{candidate}) = 1 - (1 - s^r)^b ,$$

        an S-curve with its steep part near $s^* = (1/b)^{1/r}$, where the value is $1 - (1 - 1/b)^b \approx 1 - 1/e$.
    """)
    curves = {}
    for b, r in [(5, 10), (20, 10), (20, 450), (14, 8)]:  # @inspect b r
        points = [(s, candidate_probability(s, num_bands=b, num_rows=r)) for s in np.linspace(0.4, 1, 61)]  # @stepover
        curves[f"b = {b}, r = {r}"] = points
    plot(plot_overlaid_curves(curves, xlabel="Jaccard similarity", ylabel="probability of being compared"),
         alt="S-curves: more rows move the step to the right and sharpen it, more bands move it to the left.")  # fmt: skip
    step = (1 / 20) ** (1 / 450)
    values = [candidate_probability(s, num_bands=b, num_rows=r) for s, b, r in [(0.8, 5, 10), (step, 20, 450)]]
    assert [round(value, 4) for value in (*values, step)] == [0.4333, 0.6415, 0.9934]
    text("""
        Five bands of ten find a pair of similarity 0.8 with probability {at:.3f}. With 20 bands of 450 (9000 hashes) the
        step is at {step:.4f}, where {share:.0%} are found. FineWeb uses 14 bands of 8. Now for real: 150 documents of two
        paragraphs, and copies of 60 of them with two words replaced in each.
    """, at=values[0], step=step, share=values[1])  # fmt: skip
    documents = [" ".join(documents[i : i + 2]) for i in range(0, 300, 2)]
    copies = [d.split() for d in documents[:60]]
    for words in copies:  # @every 60
        words[len(words) // 3] = words[2 * len(words) // 3] = "zebra"
    collection = documents + [" ".join(words) for words in copies]
    config = MinHashConfig()  # @inspect config
    keys = band_keys(signatures(collection, config), config.num_bands)  # @inspect keys.shape @stepover
    candidates = sorted(candidate_pairs(keys))  # @stepover
    similar = {pair: jaccard(*(shingles(collection[i], 5) for i in pair)) for pair in candidates}  # @stepover
    verified = sum(s >= config.threshold for s in similar.values())
    all_pairs = math.comb(len(collection), 2)
    compared = {"all pairs": all_pairs, "candidates": len(candidates), "verified": verified}  # @inspect compared
    planted = [(i, len(documents) + i) for i in range(60)]
    truth = [jaccard(*(shingles(collection[i], 5) for i in pair)) for pair in planted]  # @stepover
    expected = sum(candidate_probability(s, num_bands=14, num_rows=8) for s in truth)  # @inspect expected
    found = len(set(planted) & set(candidates))  # @inspect found
    assert abs(found - expected) < 12 and len(candidates) < all_pairs / 50
    text("""
        Of {pairs:,} pairs {candidates} were compared; {found} of our 60 pairs were found, {expected:.1f} by the formula
        (their similarities lie on both sides of the step). **Trap:** similarity is not transitive, but clusters, made
        by {union}, are: A like B and B like C puts A and C together, and a long chain of pages shrinks to one.
    """, union=UnionFind, pairs=all_pairs, candidates=len(candidates), found=found, expected=expected)  # fmt: skip
    exercise("Find near duplicates by LSH.", function=deduplicate_near, test="tests/test_deduplication.py")


def repeated_passages(documents):
    text("### Repeated passages: suffix arrays")
    text("""
        A licence pasted into different pages makes them neither equal nor similar. Write all documents one after
        another and sort all *suffixes*: equal passages become neighbours. {lee} removed repeats of 50 tokens and more
        this way, with suffix arrays built in linear time; a few thousand words can simply be sorted.
    """, lee=LEE)  # fmt: skip
    licence = "permission to copy this text is granted provided that this notice and the names of its authors remain"
    length, pages_ = 15, [f"{normalize(d)} | {licence if i % 20 == 0 else ''} |" for i, d in enumerate(documents[:60])]
    words = " ".join(pages_).split()  # @inspect words
    starts = [words[i : i + length] for i in range(len(words) - length + 1)]
    passages = {" ".join(a) for a, b in pairwise(sorted(starts)) if a == b}  # @inspect passages
    assert " ".join(licence.split()[:length]) in passages
    text("Sorted: {n} suffixes. What occurs twice is our planted licence, 15 words at a time.", n=len(starts))


def effective_tokens(unique, epochs):
    """Worth of repeated tokens in unique ones; Muennighoff et al. 2023, with their constant."""
    return unique * (1 + 15.39 * (1 - math.exp(-(epochs - 1) / 15.39))) if epochs > 1 else unique * epochs


def filtering_depends_on_scale():
    text("## How much to filter depends on how long one trains")
    text(r"""
        Reading data twice is worth less than reading as much new data. {muennighoff} fitted: $U$ unique tokens read
        in $1 + R$ epochs are worth

        $$D' = U + U R^* \left(1 - e^{-R / R^*}\right), \qquad R^* \approx 15.4 .$$
    """, muennighoff=MUENNIGHOFF)  # fmt: skip
    worth = {epochs: effective_tokens(1.0, epochs) for epochs in (1, 2, 4, 16, 64)}  # @inspect worth
    assert worth[4] > 3.6 and worth[64] < 16.5
    text("""
        Four epochs are worth {four:.2f} of new text, almost four. 64 are worth {many:.1f}. Now assume, for
        illustration, that the best token of the pool helps twice as much as the average one and the worst not at all,
        linearly in between (an assumption, not a measurement). Then the best share $s$ has the mean value $2 - s$.
    """, four=worth[4], many=worth[64])  # fmt: skip
    shares = np.arange(1, 101) / 100
    best = {}  # @inspect best
    for budget in (0.03, 0.1, 0.3, 1, 3, 10):  # in units of the whole pool
        values = [(2 - s) * effective_tokens(s, budget / s) for s in shares]  # @stepover
        best[budget] = float(shares[int(np.argmax(values))])
    assert list(best.values()) == sorted(best.values()) and best[0.03] < 0.1 and best[10] > 0.5
    plot(plot_values([f"{b:g}" for b in best], {"share kept": list(best.values())}, ylabel="best share to keep",
                     xlabel="tokens trained on, in units of the raw pool"),
         alt="Bars: the best share to keep grows from a few percent for small budgets to most of it for large ones.")  # fmt: skip
    text("""
        A short run should keep only the best; a long one would read that too often {goyal}.
    """, goyal=GOYAL)  # fmt: skip


def mixing():
    text("## Mixing sources")
    text("Which share of training should come from which source? Equal shares sound fair, but:")
    budget = 1e12
    epochs = 0.5 * budget / 10e9  # @inspect epochs
    text("""
        Half of a trillion tokens from a source of 10 billion reads it {epochs:.0f} times. **UniMax** {chung} shares
        equally but caps the epochs; what books and encyclopedia leave goes to the others, as in `plan_mixture`:
    """, epochs=epochs, chung=CHUNG)  # fmt: skip
    available = {"web": 2_000_000_000_000, "code": 200_000_000_000, "books": 30_000_000_000, "wiki": 10_000_000_000}
    plan = plan_mixture(available, dict.fromkeys(available, 1.0), total_tokens=int(budget), max_epochs=4)  # @stepover
    rows = {row.name: (round(row.share, 3), round(row.epochs, 2)) for row in plan}  # @inspect rows
    assert rows["wiki"] == (0.04, 4.0) and rows["books"] == (0.12, 4.0) and rows["web"][0] == rows["code"][0]
    text("""
        **Trap: small experiments with scarce data.** A proxy run 100 times shorter reads the encyclopedia 0.04 times
        where the real run will read it four times, so repetition costs it nothing and it will ask for more of it.
        *Simulated epoching*: shrink every source by the same factor, so that the proxy repeats what the real run will.
    """)
    proxy = {name: tokens // 100 for name, tokens in available.items()}
    small = plan_mixture(proxy, dict.fromkeys(proxy, 1.0), total_tokens=int(budget) // 100, max_epochs=4)  # @stepover
    agreement = max(abs(a.epochs - b.epochs) for a, b in zip(plan, small, strict=True))  # @inspect agreement
    assert agreement < 1e-6
    exercise("Plan a mixture and write it.", function=plan_mixture, test="tests/unit/data/test_mixing.py")


def mixing_by_regression():
    text("### Weights by regression")
    text("""
        RegMix {regmix}: train many tiny models on random mixtures, regress the loss on the weights, give the large run
        the mixture of the lowest predicted loss. Here the tiny models are **simulated**: three sources, each with
        diminishing returns, and noise.
    """, regmix=REGMIX)  # fmt: skip
    rng = np.random.default_rng(0)
    mixtures = rng.dirichlet([1.0, 1.0, 1.0], size=64)  # @inspect mixtures.shape
    losses = simulated_loss(mixtures) + rng.normal(0, 0.01, 64)  # @stepover
    coefficients, *_ = np.linalg.lstsq(quadratic(mixtures), losses, rcond=None)  # @stepover
    grid = rng.dirichlet([1.0, 1.0, 1.0], size=4000)
    chosen = grid[np.argmin(quadratic(grid) @ coefficients)]  # @inspect chosen @stepover
    lowest = {"chosen": simulated_loss(chosen), "equal": simulated_loss(np.ones(3) / 3)}  # @inspect lowest @stepover
    lowest["optimum"] = simulated_loss(grid).min()  # @stepover
    assert lowest["optimum"] <= lowest["chosen"] < min(lowest["equal"], lowest["optimum"] + 0.02)
    text("""
        The regression's choice reaches {chosen:.3f}, equal weights {equal:.3f}, the best of 4000 mixtures {best:.3f}. The method
        hopes that mixtures rank the same for small and large models.
    """, chosen=lowest["chosen"], equal=lowest["equal"], best=lowest["optimum"])  # fmt: skip
    text("""
        **Software tasks** are data of another kind: a repository at a commit, an issue, and tests that fail before and
        pass after {jimenez}. Filtering then means *running*: does the environment build, do the tests fail for the
        right reason? And deduplication means to leave out every fork of a repository used for evaluation.
    """, jimenez=JIMENEZ)  # fmt: skip


def simulated_loss(w):
    return 2.0 + 0.9 * np.exp(-w[..., 0] / 0.3) + 0.6 * np.exp(-w[..., 1] / 0.12) + 0.5 * np.exp(-w[..., 2] / 0.08)


def quadratic(w):
    return np.stack([w[:, 0], w[:, 1], w[:, 2], w[:, 0] * w[:, 1], w[:, 0] * w[:, 2], w[:, 1] * w[:, 2]], axis=1)


def summary():
    text("## What to take home")
    text("""
        - One recipe: model the target, score the raw text, keep or resample. Read what is kept, and what is not.
        - Each score has a blind spot: *the the the*, word salad, length.
        - Exact hashes, Bloom filters, MinHash with LSH, suffix arrays answer different questions about duplicates.
        - How much to filter, and how to mix, depends on how many tokens will be trained on.
    """)
    text("*Next: from a model that continues text to one that answers.*")


if __name__ == "__main__":
    main()
