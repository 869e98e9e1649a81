"""Evaluation: what is a good model, and how sure are we?

Lecture 12 of the course: perplexity and bits per byte, multiple choice, pass@k, intervals and paired tests, ratings and
judges with their biases, agents, and contamination, each with a model or a simulation that shows how it works and how
it fails. It prepares assignment 5, problems `mmlu_baseline`, `gsm8k_baseline` and `alpaca_eval_baseline`. Left out:
training on what one measures (lectures 15 to 17). Read next: `lecture_13.py`.
"""

import functools
import math
import random
from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import torch

from cs336_alignment.evaluation.core_metric import centred_accuracy
from cs336_alignment.evaluation.instruction_checks import is_followed
from cs336_alignment.evaluation.judges import LengthJudge
from cs336_alignment.evaluation.multiple_choice import evaluate_choices
from cs336_alignment.evaluation.pairwise import judge_pairs, summarise_judgements
from cs336_alignment.statistics import compare_paired, pass_at_k
from cs336_alignment.tasks.choice_question import ChoiceQuestion
from cs336_basics.corpora.stories import cloze_questions, generate_story
from cs336_basics.evaluation import evaluate_windows
from cs336_basics.model import ModelConfig, TransformerLM
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.optimizer import AdamW
from cs336_basics.runs.intervals import wilson_interval
from cs336_basics.runs.plots import plot_values
from cs336_basics.tokenization.bpe import train_bpe_from_counts
from cs336_basics.tokenization.pretokenization import pretokenize
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_data.decontamination import decontaminate
from cs336_data.deduplication.shingles import shingles
from lectures.content import Reference, exercise, plot, quiz, text


def paper(title, authors, date, number):
    return Reference(title=title, authors=authors.split(", "), date=date, url=f"https://arxiv.org/abs/{number}")


MMLU = paper("Measuring Massive Multitask Language Understanding", "Dan Hendrycks, Collin Burns", "2020", "2009.03300")
MMLU_PRO = paper("MMLU-Pro: A More Robust and Challenging Multi-Task Language Understanding Benchmark",
                 "Yubo Wang, Xueguang Ma", "2024", "2406.01574")  # fmt: skip
GPQA = paper("GPQA: A Graduate-Level Google-Proof Q&A Benchmark", "David Rein, Betty Li Hou", "2023", "2311.12022")
HLE = paper("Humanity's Last Exam", "Long Phan, Alice Gatti", "2025", "2501.14249")
IFEVAL = paper("Instruction-Following Evaluation for Large Language Models", "Jeffrey Zhou, Tianjian Lu", "2023",
               "2311.07911")  # fmt: skip
ARENA = paper("Chatbot Arena: An Open Platform for Evaluating LLMs by Human Preference",
              "Wei-Lin Chiang, Lianmin Zheng", "2024", "2403.04132")  # fmt: skip
ALPACA = paper("Length-Controlled AlpacaEval: A Simple Way to Debias Automatic Evaluators",
               "Yann Dubois, Balazs Galambosi", "2024", "2404.04475")  # fmt: skip
WILDBENCH = paper("WildBench: Benchmarking LLMs with Challenging Tasks from Real Users in the Wild",
                  "Bill Yuchen Lin, Yuntian Deng", "2024", "2406.04770")  # fmt: skip
CODEX = paper("Evaluating Large Language Models Trained on Code", "Mark Chen, Jerry Tworek", "2021", "2107.03374")
SWE_BENCH = paper("SWE-bench: Can Language Models Resolve Real-World GitHub Issues?",
                  "Carlos E. Jimenez, John Yang", "2023", "2310.06770")  # fmt: skip
CYBENCH = paper("Cybench: A Framework for Evaluating Cybersecurity Capabilities and Risks of Language Models",
                "Andy K. Zhang, Neil Perry", "2024", "2408.08926")  # fmt: skip
MLE_BENCH = paper("MLE-bench: Evaluating Machine Learning Agents on Machine Learning Engineering",
                  "Jun Shern Chan, Neil Chowdhury", "2024", "2410.07095")  # fmt: skip
CHOLLET = Reference(title="On the Measure of Intelligence", authors=["Francois Chollet"], date="2019",
                    url="https://arxiv.org/abs/1911.01547")  # fmt: skip
OREN = paper("Proving Test Set Contamination in Black Box Language Models", "Yonatan Oren, Nicole Meister", "2023",
             "2310.17623")  # fmt: skip
BRADLEY = Reference(title="Rank Analysis of Incomplete Block Designs: The Method of Paired Comparisons",
                    authors=["Ralph Bradley", "Milton Terry"], date="1952")  # fmt: skip

END = "<|endoftext|>"
TEST = "tests/unit/alignment/test_alignment_evaluation.py"


def main():
    text("# Evaluation")
    text("*Lecture 12: what is a good model, and how sure are we?*")
    what_for()
    perplexity()
    an_n_gram_model()
    across_tokenizers()
    multiple_choice()
    knowledge()
    how_sure()
    paired()
    several_tries()
    following_instructions()
    ratings()
    rating_traps()
    judges()
    agents()
    contamination()
    order_of_questions()
    summary()


def what_for():
    text("## Good for what?")
    text("""
        You read: *model X scores 87.1*. What does it mean? There is no one true evaluation; there is a decision to be
        made, and a measurement that helps with it.

        | who | decision | measure |
        |---|---|---|
        | a user | which model for my task? | that task, with its costs |
        | a researcher | did the change help? | something smooth, with little noise |
        | a developer | what should be fixed next? | many tests, and reading the answers |
        | society | what can it do, and what harm? | the best that anybody can get out of it |

        For each measurement, ask four questions:

        1. **Inputs.** Which cases, and how were they chosen? Do they contain the rare, hard ones?
        2. **Call.** Prompt, examples, tools, tries, reasoning: how is the model asked?
        3. **Outputs.** How are answers judged, and what does a mistake cost?
        4. **Interpretation.** Is a difference real? Was the test seen in training? Is it the model that is measured,
           or the system around it?
    """)


def perplexity():
    text("## Perplexity")
    text(r"""
        A language model gives every text a probability. On a text of $T$ tokens,

        $$\text{perplexity} = p(x_1, \ldots, x_T)^{-1/T} = \exp\left(-\frac{1}{T}\sum_t \log p(x_t \mid x_{<t})\right)$$

        It is smooth, uses every token, and cannot be won by a trick of prompting: for research on training it is still
        the best measure. Its traps are of another kind. First, what is a token?
    """)
    (stories, _), (held_out, _) = stories_of(120, seed=0), stories_of(30, seed=1)  # @stepover
    sample = held_out[:120]  # @inspect sample
    text("""
        Our texts are small stories from a grammar whose probabilities are known, so that even the *best possible*
        perplexity can be computed. First {trained:,} bytes to train on, then {tested:,} others to test.
    """, trained=len(stories), tested=len(held_out))  # fmt: skip


def stories_of(count, seed):
    rng = random.Random(seed)
    drawn = [generate_story(rng) for _ in range(count)]
    return "".join(story.text for story in drawn), -sum(story.log_probability for story in drawn)


def an_n_gram_model():
    text("### The oldest language model")
    text(r"""
        An $n$-gram model counts what followed the last $n-1$ tokens. Unseen contexts are the problem; mix each order
        with the shorter one, and trust a context the more, the fewer different successors it had ($T$ of them in $C$
        occurrences, Witten and Bell's rule):

        $$p_n(w \mid c) = \frac{\text{count}(c\,w) + T(c)\; p_{n-1}(w \mid c')}{C(c) + T(c)}$$
    """)
    counts = count_ngrams(list("abracadabra"), order=3)  # @inspect counts
    certain = probability(counts, "a", "br", vocab_size=5)  # @inspect certain
    unseen = probability(counts, "a", "dc", vocab_size=5)  # @inspect unseen
    total = sum(probability(counts, letter, "ra", vocab_size=5) for letter in "abcdr")  # @stepover
    assert math.isclose(-math.log(certain), nats(counts, "bra", [2], 3, 5))
    assert math.isclose(total, 1.0) and certain > 0.7 > unseen
    text("""
        After `br` it is {certain:.0%} sure of an `a`. The context `dc` was never seen, so it falls back to all that it
        knows of `c` and gives {unseen:.0%}. The probabilities of all letters sum to one, which a measure of perplexity
        must insist on: a model that does not normalize can claim any perplexity.
    """, certain=certain, unseen=unseen)  # fmt: skip


def count_ngrams(tokens, order):  # @stepover
    counts = defaultdict(Counter)
    for i in range(len(tokens)):
        for n in range(min(order, i + 1)):
            counts[tuple(tokens[i - n : i])][tokens[i]] += 1
    return counts


def probability(counts, token, context, vocab_size):  # @inspect token context
    p = 1 / vocab_size  # @inspect p
    for n in range(len(context) + 1):  # @inspect n
        seen = counts.get(tuple(context[len(context) - n :]))
        if seen is None:
            break
        total, types = sum(seen.values()), len(seen)
        p = (seen[token] + types * p) / (total + types)  # @inspect p
    return p


def across_tokenizers():
    text("### Trap: perplexities of different tokenizers")
    (stories, _), (held_out, least_nats) = stories_of(120, seed=0), stories_of(30, seed=1)  # @stepover
    tokenizer, model = small_model()  # @stepover
    results = {}  # @inspect results
    for name, tokens in {"bytes": bpe(stories, 0), "600 merges": tokenizer}.items():  # @inspect name
        train, test = tokens.encode(stories), tokens.encode(held_out)  # @stepover
        text_nats = nats(count_ngrams(train, 3), test, range(len(test)), 3, tokens.vocab_size)  # @stepover
        bits = text_nats / math.log(2) / len(held_out.encode())
        results[f"trigrams\n{name}"] = (math.exp(text_nats / len(test)), bits)
    found = evaluate_windows(model, np.array(test), 64, token_bytes=tokenizer.token_byte_lengths())  # @stepover
    results["Transformer\n600 merges"] = (found.perplexity, found.bits_per_byte)
    floor = least_nats / math.log(2) / len(held_out.encode())  # @inspect floor
    perplexities, bits = zip(*results.values(), strict=True)
    assert perplexities[0] < perplexities[1] and bits[0] > 2 * bits[1] and min(bits) > floor
    plot(plot_values(list(results), {"perplexity": perplexities, "bits per byte": bits}, ylabel="on the same text"),
         alt="Bars: with 600 merges, trigrams have a higher perplexity than on bytes and fewer bits per byte.")  # fmt: skip
    text("""
        With 600 merges the *same kind of model* is far better in bits per byte, {best:.2f} instead of {worst:.2f}, and
        worse in perplexity, {high:.1f} instead of {low:.1f}: a longer token is harder to guess, and there are fewer of
        them. Across tokenizers, only the loss of the whole *text* can be compared,

        $$\\text{bits per byte} = \\frac{\\text{nats of the text}}{\\ln 2 \\cdot \\text{bytes of the text}}.$$

        And the entropy of these stories is {floor:.3f} bits per byte: in expectation nobody can do better, and we know
        what is missing.
    """, worst=bits[0], best=bits[1], low=perplexities[0], high=perplexities[1], floor=floor)  # fmt: skip
    exercise("Compute perplexity and bits per byte over windows of a token stream.", function=evaluate_windows,
             test="tests/unit/basics/test_evaluation.py")  # fmt: skip


def bpe(corpus, num_merges):
    merges = train_bpe_from_counts(Counter(word.encode() for word in pretokenize(corpus)), num_merges)
    tokens = [bytes([i]) for i in range(256)] + [left + right for left, right in merges] + [END.encode()]
    return Tokenizer(dict(enumerate(tokens)), merges, [END])


def nats(counts, tokens, places, order, vocab_size):  # @stepover
    total = 0.0
    for i in places:
        p = 1 / vocab_size  # as in `probability`
        for n in range(min(order, i + 1)):
            seen = counts.get(tuple(tokens[i - n : i]))
            if seen is None:
                break
            p = (seen[tokens[i]] + len(seen) * p) / (seen.total() + len(seen))
        total -= math.log(p)
    return total


@functools.cache
def small_model(num_steps=50):
    torch.manual_seed(0)
    stories, _ = stories_of(120, seed=0)
    tokenizer = bpe(stories, 600)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, context_length=64, d_model=64, num_layers=2, num_heads=4)
    model, tokens = TransformerLM(config), torch.tensor(tokenizer.encode(stories))
    optimizer = AdamW(model.parameters(), lr=4e-3)
    for _ in range(num_steps):
        rows = torch.stack([tokens[i : i + 65] for i in torch.randint(len(tokens) - 65, (8,)).tolist()])
        optimizer.zero_grad()
        cross_entropy(model(rows[:, :-1]), rows[:, 1:]).backward()
        optimizer.step()
    return tokenizer, model


def multiple_choice():
    text("## Questions with four answers")
    text("""
        A model that only continues text can take an exam: write question and answer as a text, and see which answer it
        finds most likely. But longer answers are less likely, simply because they are longer. So the sum of
        log-probabilities is divided by the number of tokens, or better of bytes:
    """)
    tokenizer, model = small_model()  # @stepover
    drawn_questions = cloze_questions(random.Random(2), count=60)  # @stepover
    questions = [ChoiceQuestion(q.prompt, tuple(c.strip() for c in q.candidates), q.candidates.index(q.answer), q.kind)
                 for q in drawn_questions]  # @stepover # fmt: skip
    example = (questions[0].context[-60:], questions[0].choices)  # @inspect example
    outcomes = evaluate_choices(model, tokenizer.encode, questions, first_id=tokenizer.encode(END)[0],
                                context_length=64)  # @stepover # fmt: skip
    right = {name: sum(o.right(name) for o in outcomes) for name in ("sum", "token", "byte")}  # @inspect right
    changed = sum(len(set(o.chosen.values())) > 1 for o in outcomes)  # @inspect changed
    text("""
        Out of 60 questions the small Transformer has {a}, {b} or {c} right, depending on the normalization alone, and
        15 would be guessing (less can happen: wrong answers are words of the same story). {changed} answers change.
        **Two numbers for one benchmark may differ because they were asked for differently**; so may two prompts, or
        showing the letters A to D in place of the answers.
    """, a=right["sum"], b=right["token"], c=right["byte"], changed=changed)  # fmt: skip
    exercise("Let a model choose by likelihood, under each normalization.", function=evaluate_choices, test=TEST)


def knowledge():
    text("### What is asked")
    text("""
        | benchmark | questions | choices |
        |---|---|---|
        | MMLU {mmlu} | exams in 57 subjects | 4 |
        | MMLU-Pro {pro} | harder, cleaned | 10 |
        | GPQA {gpqa} | 448 by experts with doctorates, which a search does not answer | 4 |
        | Humanity's Last Exam {hle} | 2,500 by experts, chosen because models failed | some |
    """, mmlu=MMLU, pro=MMLU_PRO, gpqa=GPQA, hle=HLE)  # fmt: skip
    text("Scores with different chance do not compare. Centre them, so that guessing is 0 and perfection 1:")
    four, ten = centred_accuracy(0.55, 0.25), centred_accuracy(0.46, 0.10)  # @inspect four ten @stepover
    assert math.isclose(four, 0.4) and math.isclose(ten, 0.4)
    text("55 % with four choices and 46 % with ten are the same: {four:.0%} of the way from guessing.", four=four)
    quiz("A benchmark keeps only questions that today's best model gets wrong. It scores 3 %, a weaker one 8 %. Is the "
         "weaker one better?",
         "No. The set was chosen *against* the best model: its own errors were selected, the other's were not.")  # fmt: skip


def how_sure():
    text("## How sure are we?")
    text(r"""
        An accuracy is a mean over questions that might have been others. With $n$ of them its standard error is
        $\sqrt{p(1-p)/n}$. The Wilson interval holds what a test would not reject, and stays inside $[0, 1]$:
    """)
    ends = {n: wilson_interval(round(0.7 * n), n) for n in (30, 164, 448, 14_042)}  # @inspect ends @stepover
    widths = {n: high - low for n, (low, high) in ends.items()}  # @inspect widths
    assert widths[164] > 0.13 and widths[14_042] < 0.016
    text("""
        At 70 %, 164 problems leave {small:.0%} from end to end, 448 still {middle:.0%}. A table that ranks models by
        half a percent on such a set ranks luck. How many questions tell 70 % from 72 %?
    """, small=widths[164], middle=widths[448])  # fmt: skip
    needed = 2 * (1.96 + 0.84) ** 2 * 0.71 * 0.29 / 0.02**2  # @inspect needed
    assert 8000 < needed < 8200
    text("""
        About {needed:,.0f}, to notice it four times out of five with two *independent* sets of answers. We can do much
        better, for the questions are the same.
    """, needed=needed)  # fmt: skip
    exercise("Give the interval of an accuracy. What does the plain one say after 30 of 30?", function=wilson_interval,
             test="tests/unit/basics/test_report.py")  # fmt: skip


def paired():
    text("### The same questions, twice")
    text("""
        Most questions are easy or hard for both models and say nothing. Only those where they differ do. If neither is
        better, each of these fell on either side by a fair coin (McNemar's test):
    """)
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=1000) * 3
    luck = rng.logistic(size=(2, 1000)) * 0.3
    first, second = difficulty + luck[0] < 1.6, difficulty + luck[1] < 2.0  # @inspect first second
    apart = [wilson_interval(int(model.sum()), 1000) for model in (first, second)]  # @inspect apart @stepover
    comparison = compare_paired(first.tolist(), second.tolist())  # @inspect comparison @stepover
    assert apart[0][1] > apart[1][0] and comparison.p_value < 0.01 and comparison.lost > 0
    text("""
        Their intervals overlap, and yet the second won {gained} questions and lost {lost}: p = {p:.1g}. **Overlapping
        intervals do not mean "no difference".** Store every answer, not only the mean.

        **Trap:** questions come in groups (one passage, five questions). Resample *groups* in a bootstrap; single
        questions would pretend to five times the evidence.
    """, gained=comparison.gained, lost=comparison.lost, p=comparison.p_value)  # fmt: skip
    exercise("Compare two models on the same questions.", function=compare_paired, test=TEST)


def several_tries():
    text("## More than one try")
    text(r"""
        Programs can be tested, so one may try $k$ times and keep what passes {codex}. If a try succeeds with
        probability $p$, then $\text{pass@}k = 1 - (1-p)^k$. From $n$ samples with $c$ right ones, the plain estimate is
        $1 - (1 - c/n)^k$, and it is biased: the function is concave, so noise in $c/n$ lowers it (Jensen). Unbiased is
        the chance that $k$ of the $n$ samples, drawn without replacement, hold a right one,

        $$1 - \binom{n-c}{k} \Big/ \binom{n}{k}$$

        because $k$ samples out of $n$ are as good as $k$ fresh ones. Both expectations, exactly, over all $c$:
    """, codex=CODEX)  # fmt: skip
    n, k, p = 10, 5, 0.1
    truth = 1 - (1 - p) ** k  # @inspect truth
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    unbiased = sum(chance[c] * pass_at_k(n, c, k) for c in range(n + 1))  # @inspect unbiased @stepover
    plain = sum(chance[c] * (1 - (1 - c / n) ** k) for c in range(n + 1))  # @inspect plain
    assert math.isclose(unbiased, truth) and plain < truth - 0.03
    text("""
        {truth:.4f} is right; the plain estimate says {plain:.4f}. **Trap:** pass@100 says what is *possible*, to those
        who can check an answer. Without a checker one needs a vote or a judge, and a user gets pass@1.
    """, truth=truth, plain=plain)  # fmt: skip
    exercise("Estimate pass@k without bias, and without overflow.", function=pass_at_k, test=TEST)


def following_instructions():
    text("## Open answers, checked by a program")
    text("""
        *Write a poem about autumn.* There is no right answer. One way out is to ask for things that a program can
        check, as IFEval does {ifeval}, with 25 kinds of such instructions:
    """, ifeval=IFEVAL)  # fmt: skip
    response = "Leaves fall on the old stone wall. THE WIND counts them all."  # @inspect response
    told = {"no_comma": ("punctuation:no_comma", {}),
            "15 words": ("length_constraints:number_words", {"relation": "at least", "num_words": 15}),
            "wall": ("keywords:existence", {"keywords": ["wall"]})}  # fmt: skip
    checks = {name: is_followed(*check, response) for name, check in told.items()}  # @inspect checks @stepover
    assert list(checks.values()) == [True, False, True]
    nonsense = is_followed(*told["wall"], "wall wall wall")  # @inspect nonsense @stepover
    text("Cheap, exact, and blind to whether the poem is any good: nonsense passes just as well.")
    exercise("Check whether a response follows an instruction.", function=is_followed, test=TEST)


def ratings():
    text("## Open answers, judged in pairs")
    text(r"""
        The other way: show two answers, and ask which is better. In an arena {arena} people bring their own questions,
        see two anonymous answers, and vote. Votes become ratings by the model of {bradley}: model $i$ has a strength
        $s_i > 0$, and

        $$P(i \text{ beats } j) = \frac{s_i}{s_i + s_j} = \frac{1}{1 + 10^{(R_j - R_i)/400}},
        \qquad R = 400 \log_{10} s$$

        Setting the derivative of the log-likelihood to zero gives, for $W_i$ wins and $n_{ij}$ games,

        $$s_i \leftarrow W_i \Big/ \sum_j \frac{n_{ij}}{s_i + s_j}$$

        and repeating this climbs to the maximum. Five models, 3000 votes:
    """, arena=ARENA, bradley=BRADLEY)  # fmt: skip
    true = np.array([200.0, 100, 0, -100, -200])  # @inspect true
    votes = simulate_votes(true, 3000)  # @stepover
    wins = np.bincount(votes @ [5, 1], minlength=25).reshape(5, 5)  # row beats column; @inspect wins
    fitted = fit_bradley_terry(wins)  # @inspect fitted
    assert np.abs(fitted - true).max() < 30
    rng = np.random.default_rng(1)
    redrawn = [votes[rng.integers(3000, size=3000)] @ [5, 1] for _ in range(40)]
    resampled = [fit_bradley_terry(np.bincount(v, minlength=25).reshape(5, 5)) for v in redrawn]  # @stepover
    half_width = 1.645 * np.std(resampled, axis=0)  # @inspect half_width
    text("""
        The ratings come back, within about {half:.0f} points (a 90 % interval from a bootstrap over votes). An
        advantage of 100 points means winning {p:.0%}.
    """, half=half_width.mean(), p=1 / (1 + 10 ** (-100 / 400)))  # fmt: skip


def simulate_votes(ratings, count):
    rng = np.random.default_rng(0)
    pairs = np.array([rng.choice(len(ratings), size=2, replace=False) for _ in range(count)])
    first_wins = rng.random(count) < 1 / (1 + 10 ** ((ratings[pairs[:, 1]] - ratings[pairs[:, 0]]) / 400))
    return np.where(first_wins[:, None], pairs, pairs[:, ::-1])  # winner, loser


def fit_bradley_terry(wins, num_rounds=100):
    games = wins + wins.T
    strengths = np.ones(len(wins))
    for _ in range(num_rounds):  # @every 10
        strengths = wins.sum(axis=1) / (games / (strengths[:, None] + strengths)).sum(axis=1)
        strengths /= np.exp(np.log(strengths).mean())  # @inspect strengths
    return 400 * np.log10(strengths)


def rating_traps():
    text("### Traps of ratings")
    text("**Order.** Elo's rule updates after each vote, and its result depends on which votes came last:")
    votes = simulate_votes(np.array([200.0, 100, 0, -100, -200]), 3000)  # @stepover
    rng = np.random.default_rng(2)
    elo = np.array([elo_ratings(votes[rng.permutation(3000)]) for _ in range(20)])  # @stepover
    spread = elo.max(axis=0) - elo.min(axis=0)  # @inspect spread
    assert spread.max() > 50
    text("""
        The same 3000 votes in twenty orders: up to {spread:.0f} points apart. Bradley and Terry's fit has no order.

        **One number.** Suppose A beats B, B beats C and C beats A, each 80 % of the time: code, poems, mathematics.
    """, spread=spread.max())  # fmt: skip
    wins = np.array([[0, 80, 20], [20, 0, 80], [80, 20, 0]])
    circle = fit_bradley_terry(wins)  # @inspect circle @stepover
    assert np.abs(circle).max() < 1e-6
    text("""
        All ratings are equal, and every prediction made from them is 50 %, where the truth is 80 %. Skill that depends
        on the question has no single rating.

        **Who votes, on what?** People like long, well-formatted, agreeable answers. And whoever may enter thirty
        variants of a model and publish the best has measured the best of thirty lucky draws.
    """)


def elo_ratings(votes, step=32):
    ratings = [0.0] * 5
    for winner, loser in votes.tolist():
        surprise = 1 / (1 + 10 ** ((ratings[winner] - ratings[loser]) / 400))
        ratings[winner] += step * surprise
        ratings[loser] -= step * surprise
    return ratings


def judges():
    text("## Judged by a model")
    text("""
        Votes are slow, so a strong model is the judge: AlpacaEval {alpaca} on 805 instructions against a baseline,
        WildBench {wild} with a checklist for each of 1024 real conversations. Judges have habits. Let two models write
        equally good answers, one of them longer, and let the judge like length:
    """, alpaca=ALPACA, wild=WILDBENCH)  # fmt: skip
    rng = np.random.default_rng(0)
    lengths = [(int(rng.integers(20, 120)), int(rng.integers(40, 140))) for _ in range(400)]
    triples = [("Explain.", "x" * baseline, "x" * model) for baseline, model in lengths]  # @stepover
    plain = summarise_judgements(judge_pairs(LengthJudge(), triples))  # @stepover
    win_rate, controlled = plain.win_rate.value, plain.length_controlled  # @inspect win_rate controlled
    assert win_rate > 0.65 and abs(controlled - 0.5) < 0.06
    text(r"""
        The longer model wins {win:.0%}, for nothing. **Length control** fits
        $\text{{logit}}\,p = \text{{quality}} + \text{{slope}} \cdot \tanh(\Delta/\sigma)$ to the judgements and asks
        for the win rate at equal length, $\Delta = 0$: {controlled:.0%}.
    """.replace("{{", "{").replace("}}", "}"), win=win_rate, controlled=controlled)  # fmt: skip
    always_first = SimpleNamespace(prefer_second=lambda instruction, first, second: 0.0)
    first = summarise_judgements(judge_pairs(always_first, triples[:50]))  # @stepover
    habit = (first.win_rate.value, first.first_position, first.disagreements)  # @inspect habit
    assert habit == (0.5, 1.0, 1.0)
    text("""
        Another habit is *position*: this judge always prefers what it reads first. Judged in both orders, it is
        exposed: win rate 50 %, and its verdict turned with the order in {turned:.0%} of the pairs. Others favour their
        own style, or their own family.
    """, turned=first.disagreements)  # fmt: skip
    exercise("Summarise judgements: win rate, at equal length, and the judge's habits.",
             function=summarise_judgements, test=TEST)  # fmt: skip


def agents():
    text("## Agents, reasoning, safety")
    text("""
        An agent acts: it runs commands, reads what they print, and tries again.

        | benchmark | tasks | success |
        |---|---|---|
        | SWE-bench {swe} | 2,294 issues of Python repositories | hidden tests pass |
        | Cybench {cyber} | 40 capture-the-flag tasks | the flag is found |
        | MLE-bench {mle} | 75 Kaggle competitions | a medal among people |

        Here the score belongs to a **system**: model, scaffold, tools, time and money. Let one step succeed with
        probability 0.98, and let the scaffold notice half of the failures and repeat the step:
    """, swe=SWE_BENCH, cyber=CYBENCH, mle=MLE_BENCH)  # fmt: skip
    alone = 0.98**100  # @inspect alone
    scaffolded = (0.98 + 0.02 * 0.5 * 0.98) ** 100  # @inspect scaffolded
    assert scaffolded > 2 * alone
    text("""
        At 100 steps {alone:.0%} become {scaffolded:.0%}, with the very same model. So say which is meant: **methods**
        are compared with everything else fixed, **systems** as they are, with their price.

        Other tests try to take knowledge out and leave reasoning (ARC {chollet}: new puzzles of colours on grids), or
        ask what a model should *not* do (answers to harmful requests). Refusing everything is perfectly safe and
        perfectly useless: measure refusals of harmless requests beside compliance with harmful ones. And who asks
        matters: most benchmarks quiz with questions to which the asker knows the answer; people mostly ask what they do
        not know.
    """, alone=alone, scaffolded=scaffolded, chollet=CHOLLET)  # fmt: skip


def contamination():
    text("## Was it in the training data?")
    text("""
        Benchmarks lie on the web, and so does training data. The usual detector looks for long $n$-grams of words, 13
        in a row, that also stand in a test item:
    """)
    item = ("A train leaves the northern station at nine and travels sixty miles in one hour. "
            "How far has it gone by noon?")  # fmt: skip
    copied = "Quiz! A train leaves the northern station at nine, and travels sixty miles in one hour. How far " \
             "has it gone by noon? Answers below."  # fmt: skip
    paraphrased = "At nine a train departs from the station in the north, at sixty miles per hour. How far by midday?"
    wanted = shingles(item, 13)  # @stepover
    shared = [len(wanted & shingles(page, 13)) for page in (copied, paraphrased)]  # @inspect shared @stepover
    assert shared == [len(wanted), 0]
    text("""
        The copy is found in spite of its comma. The **paraphrase is not**, and neither would a translation be, though a
        model learns the answer from either. So a clean report says how it was cleaned, never that it is clean. Surer
        are questions that did not exist when the model was trained, or that nobody outside has seen.
    """)
    exercise("Leave out documents that share a 13-gram with an evaluation item.", function=decontaminate,
             test="tests/unit/data/test_decontamination.py")  # fmt: skip


def order_of_questions():
    text("### A test from outside")
    text(r"""
        Without access to the training data one can still test {oren}. The order of questions in a benchmark is
        arbitrary: a model that has not seen the file gives every order the same probability, up to chance. One that has
        memorized the file prefers **the order in the file**. Shuffle 199 times; if the published order is likelier than
        all shuffles, then p = 1/200, which is evidence, not suspicion.
    """, oren=OREN)  # fmt: skip
    items = [f"{country}: {city}\n" for country, city in CAPITALS]
    shuffled = random.Random(0).sample(items, len(items))
    leaked = count_ngrams(stories_of(20, seed=0)[0] + "".join(items), order=7)  # @stepover
    clean = count_ngrams(stories_of(20, seed=0)[0] + "".join(shuffled), order=7)  # @stepover
    found = {"leaked": order_p_value(leaked, items), "clean": order_p_value(clean, items)}  # @inspect found @stepover
    assert found["leaked"] == 1 / 200 and found["clean"] > 0.05
    text("""
        Both $n$-gram models have read the same facts as often. The one that read them in the file's order is caught
        with p = {leaked:.3f}; the other has p = {clean:.2f}.
    """, leaked=found["leaked"], clean=found["clean"])  # fmt: skip


CAPITALS = [("France", "Paris"), ("Kenya", "Nairobi"), ("Japan", "Tokyo"), ("Peru", "Lima"), ("Norway", "Oslo"),
            ("Egypt", "Cairo"), ("Chile", "Santiago"), ("Italy", "Rome"), ("Cuba", "Havana"), ("Ghana", "Accra"),
            ("Spain", "Madrid"), ("Greece", "Athens"), ("Nepal", "Kathmandu"), ("Poland", "Warsaw")]  # fmt: skip


def order_p_value(counts, items, num_shuffles=199):
    def unlikely(order):
        joined = "".join(order)
        starts = np.cumsum([len(item) for item in order[:-1]]).tolist()  # only first letters feel what stood before
        return nats(counts, joined, [i for start in starts for i in range(start, start + 3)], 7, 256)

    rng, published = random.Random(1), unlikely(items)
    as_likely = sum(unlikely(rng.sample(items, len(items))) <= published for _ in range(num_shuffles))
    return (1 + as_likely) / (1 + num_shuffles)


def summary():
    text("## What to take home")
    text(r"""
        - No evaluation without a decision: inputs, call, outputs, interpretation.
        - Across tokenizers compare bits per byte, never perplexity.
        - Say how it was asked; give intervals; compare on the same questions.
        - pass@k has an unbiased estimate, and needs somebody who can check.
        - Ratings assume one scale; judges have habits: control length, swap positions.
        - A system is more than a model. And look whether the test was in the training data.
        - Benchmarks saturate at their own errors: if 3 % of the labels are wrong, 97 % is perfect. **Read** twenty
          inputs, outputs and verdicts yourself; try baselines such as the longest answer, or no question at all.

        *Next: where that training data comes from.*
    """)


if __name__ == "__main__":
    main()
