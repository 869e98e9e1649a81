"""Evaluation against brute force: likelihoods, choices, CORE, IFEval, pairwise judging, statistics."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cs336_alignment.evaluation import core_metric as core
from cs336_alignment.evaluation.generation import evaluate_generation, pass_rates, share
from cs336_alignment.evaluation.instruction_checks import CHECKS, is_followed
from cs336_alignment.evaluation.instruction_following import (
    InstructionPrompt,
    generated_prompts,
    loose_versions,
    summarise_following,
)
from cs336_alignment.evaluation.judges import AnswerJudge, LengthJudge, LikelihoodJudge, ModelJudge
from cs336_alignment.evaluation.likelihood import score_rows
from cs336_alignment.evaluation.multiple_choice import evaluate_choices, letter_question, rows_after_common_prefix
from cs336_alignment.evaluation.pairwise import fit_length_model, judge_pairs, summarise_judgements
from cs336_alignment.statistics import compare_paired, mcnemar, pass_at_k
from cs336_alignment.task import Example
from cs336_alignment.tasks.choice_question import ChoiceQuestion
from cs336_alignment.tasks.final_answer import judge, same_number
from tests.unit.alignment.chat_doubles import byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer(chat=False)
FIRST = 256


@pytest.fixture(scope="module")
def model():
    model = tiny_model(TOKENIZER, context_length=64)
    with torch.no_grad():
        model.lm_head.weight *= 8
    return model


def nats(model, ids: list[int], start: int) -> float:
    """-log p of ids[start:], one token after the other, in float64."""
    total = 0.0
    for at in range(start, len(ids)):
        logits = model(torch.tensor([ids[:at]]))[0, -1].detach().double()
        total += float(torch.logsumexp(logits, 0) - logits[ids[at]])
    return total


def test_scores_equal_a_loop_over_tokens(model):
    rng = np.random.default_rng(0)
    rows = [([FIRST, *rng.integers(0, 256, n).tolist()], int(rng.integers(1, n + 1))) for n in (1, 5, 30, 7, 63, 2, 12)]
    model.train()
    for found, (ids, start) in zip(score_rows(model, rows, context_length=64, batch_size=3), rows, strict=True):
        assert found.nats == pytest.approx(nats(model, ids, start), rel=1e-4)
        assert found.tokens == len(ids) - start and not found.truncated
    assert model.training
    model.eval()


def test_long_rows_lose_their_beginning(model):
    ids = [FIRST, *range(100)]
    (found,) = score_rows(model, [(ids, 95)], context_length=64)
    assert found.truncated and found.tokens == 6
    assert found.nats == pytest.approx(nats(model, ids[-65:], 65 - 6), rel=1e-4)
    (found,) = score_rows(model, [(ids, 2)], context_length=64)  # not even the continuation fits
    assert found.truncated and found.tokens == 64
    with pytest.raises(ValueError, match="row 1 needs context"):
        score_rows(model, [(ids, 2), ([1], 1)], context_length=64)


def test_greedy_flag_and_models_with_logits(model):
    ids = TOKENIZER.encode("abc")
    for _ in range(4):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    wrapped = torch.nn.Module()
    wrapped.forward = lambda x: SimpleNamespace(logits=model(x))  # type: ignore[method-assign]
    wrapped.register_parameter("p", torch.nn.Parameter(torch.zeros(1)))
    right, wrong = score_rows(wrapped, [(ids, 3), ([*ids[:-1], ids[-1] ^ 1], 3)], context_length=64)
    assert right.greedy and not wrong.greedy


QUESTIONS = [
    ChoiceQuestion("The sky is", ("blue", "green today", "b"), 0, "colours"),
    ChoiceQuestion("Two and two make", ("four", "fo", "five"), 2, "numbers"),
    ChoiceQuestion("Say", ("x", "x"), 1, "numbers"),
]


def test_choices_equal_brute_force(model):
    shots = [ChoiceQuestion("One is", ("1", "2"), 0)]
    found = evaluate_choices(
        model, TOKENIZER.encode, QUESTIONS, first_id=FIRST, context_length=64, shots=shots, batch_size=2
    )  # fmt: skip
    for outcome, question in zip(found, QUESTIONS, strict=True):
        prompt = f"One is 1\n\n{question.context} "
        texts = [[FIRST, *TOKENIZER.encode(prompt + choice)] for choice in question.choices]
        shortest = min(map(len, texts))
        parted = [at for at in range(shortest) if len({tuple(t[at : at + 1]) for t in texts}) > 1]
        start = parted[0] if parted else shortest - 1
        scores = [nats(model, text, start) for text in texts]
        assert outcome.nats == pytest.approx(scores, rel=1e-4)
        assert outcome.chosen["sum"] == int(np.argmin(scores))
        means = [s / (len(t) - start) for s, t in zip(scores, texts, strict=True)]
        assert outcome.chosen["token"] == int(np.argmin(means))
        per_byte = [s / len(c) for s, c in zip(scores, question.choices, strict=True)]
        assert outcome.chosen["byte"] == int(np.argmin(per_byte))
        assert outcome.right("sum") == (outcome.chosen["sum"] == question.answer)


def test_choices_that_begin_each_other():
    assert rows_after_common_prefix([[0, 1], [0, 1, 2]]) == [([0, 1], 1), ([0, 1, 2], 1)]
    assert rows_after_common_prefix([[3, 1], [0, 1]]) == [([3, 1], 1), ([0, 1], 1)]
    posed = letter_question(QUESTIONS[0], [])
    assert posed.choices == ("A", "B", "C") and posed.context.endswith("C. b\nAnswer:")
    with pytest.raises(ValueError, match="two choices"):
        ChoiceQuestion("a", ("b",), 0)


class CountingModel(torch.nn.Module):
    """Expects after each byte the next one (b after a), with certainty growing in its weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(9.0))

    def forward(self, ids):
        return self.weight * torch.nn.functional.one_hot((ids + 1) % 256, 266).float()


def core_test(kind: str, item: dict) -> core.CoreTest:
    return core.CoreTest(kind, kind, (item,), 0, "" if kind == "language_modeling" else " ", 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "test, expected",
    [
        (core_test("multiple_choice", {"query": "q", "choices": ["abcd", "acbd"], "gold": 0}), [True]),
        (core_test("multiple_choice", {"query": "q", "choices": ["abcd", "acbd"], "gold": 1}), [False]),
        (core_test("schema", {"context_options": ["x!", "x@"], "continuation": "!", "gold": 0}), [True]),
        (core_test("language_modeling", {"context": "a", "continuation": "bcd"}), [True]),
        (core_test("language_modeling", {"context": "a", "continuation": "bd"}), [False]),
    ],
)  # fmt: skip
def test_core_kinds(test, expected):
    encode = TOKENIZER.encode
    assert core.evaluate_core_test(CountingModel(), encode, test, first_id=FIRST, context_length=64) == expected


def test_core_schema_scores_the_shared_end():
    rows = core._rows("schema", [[9, 1, 2, 7, 8], [9, 3, 7, 8]])
    assert rows == [([9, 1, 2, 7, 8], 3), ([9, 3, 7, 8], 2)]
    assert core._rows("language_modeling", [[9, 1], [9, 1, 5, 6]]) == [([9, 1, 5, 6], 2)]
    assert core._rows("language_modeling", [[9, 1, 4], [9, 1, 5, 6]]) == [([9, 1, 5, 6], 2)]  # a token across the cut


def test_core_examples_never_hold_the_question():
    items = tuple({"query": f"question {k}", "choices": [f"answer {k}", "no"], "gold": 0} for k in range(8))
    test = core.CoreTest("t", "multiple_choice", items, 3, ": ", 0.25)
    for number in range(8):
        first, second = core._texts(test, number)
        *solved, asked = first.split("\n\n")
        assert len(solved) == 3 and asked == f"question {number}: answer {number}"
        assert second.endswith(f"question {number}: no")
        assert all(f"question {number}:" not in example for example in solved)
        assert all(example.replace("question", "answer").split(": ")[0] in example for example in solved)


def test_core_aggregate_is_centred():
    tests = [
        core.CoreTest("a", "multiple_choice", (), 0, " ", 0.25),
        core.CoreTest("b", "language_modeling", (), 0, " ", 0.0),
    ]
    assert core.core_metric({"a": 0.25, "b": 0.0}, tests) == 0
    assert core.core_metric({"a": 1.0, "b": 1.0}, tests) == 1
    assert core.core_metric({"a": 0.5, "b": 0.1}, tests) == pytest.approx((1 / 3 + 0.1) / 2)
    with pytest.raises(ValueError, match="chance"):
        core.CoreTest("a", "schema", (), 0, " ", 1.0)


def test_core_bundle(tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "eval_data" / "kind").mkdir(parents=True)
    (tmp_path / "core.yaml").write_text(
        "icl_tasks:\n- label: small\n  dataset_uri: kind/small.jsonl\n  num_fewshot: [2]\n"
        "  icl_task_type: multiple_choice\n  continuation_delimiter: ': '\n"
    )
    (tmp_path / "eval_meta_data.csv").write_text("Eval Task,Random baseline\nsmall,25\n")
    records = [{"query": f"q{k}", "choices": ["a", "b"], "gold": 0} for k in range(6)]
    path = tmp_path / "eval_data" / "kind" / "small.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    (test,) = core.read_core_bundle(tmp_path, limit=4)
    assert (test.label, test.num_examples, test.delimiter, test.chance, len(test.items)) == ("small", 2, ": ", 0.25, 4)
    path.write_text('{"query": "q", "choices": []}\n')
    with pytest.raises(ValueError, match="line 1: .*needs gold"):
        core.read_core_bundle(tmp_path)
    (tmp_path / "eval_meta_data.csv").write_text("Eval Task,Random baseline\n")
    with pytest.raises(ValueError, match="no random baseline for small"):
        core.read_core_bundle(tmp_path)


CASES: list[tuple[str, dict, str, str]] = [  # name, arguments, a response that keeps it, one that does not
    ("keywords:existence", {"keywords": ["Garden", "tree"]}, "a tree in a garden", "a garden"),
    ("keywords:frequency", {"keyword": "go", "frequency": 2, "relation": "at least"}, "go Go", "go"),
    ("keywords:frequency", {"keyword": "go", "frequency": 2, "relation": "less than"}, "go", "go go"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "concatenate", "a Cat!"),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "at least"}, "eE", "e"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two!", "1.5 is one."),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"}, "One. Two", "A. B? C!"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n***\n\n***\nb"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "a b, c", "a b"),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"}, "a b\n\n\"Then, c", "a b\n\nthenceforth c"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b c]", "[a]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "x\nP. S. y", "xps y"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "x\nP.P.S y", "x\nP.S. y"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "* a\n* b\n- c", "* a\n**b**\n- c"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* * *"),
    ("detectable_format:multiple_sections",
     {"section_spliter": "PART", "num_sections": 2}, "PART 1 a PART 2 b", "PART 1"),
    ("detectable_format:json_format", {}, "```json\n{\"a\": [1]}\n```", "{a: 1}"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >>"),
    ("combination:two_responses", {}, "a\n******\nb", "a\n******\na"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi"}, "say hi: hi", "hi"),
    ("startend:end_checker", {"end_phrase": "The end."}, "x. the end.", "The end. x"),
    ("startend:quotation", {}, ' "a" ', '"a'),
    ("change_case:capital_word_frequency",
     {"capital_frequency": 2, "capital_relation": "at least"}, "A BIG one", "A big"),
    ("change_case:english_capital", {}, "ALL 1", "ALl"),
    ("change_case:english_lowercase", {}, "all 1", "All"),
    ("punctuation:no_comma", {}, "a b", "a, b"),
]  # fmt: skip


@pytest.mark.parametrize("name, arguments, kept, broken", CASES)
def test_verifiable_instructions(name, arguments, kept, broken):
    assert is_followed(name, {**arguments, "unused": None}, kept)
    assert not is_followed(name, arguments, broken)
    assert not is_followed(name, arguments, "  \n")


def test_instructions_are_complete_and_checked():
    assert {name for name, *_ in CASES} | {"language:response_language"} == set(CHECKS) and len(CHECKS) == 25
    with pytest.raises(ValueError, match="unknown instruction"):
        is_followed("new:kind", {}, "a")
    with pytest.raises(ValueError, match="do not fit"):
        is_followed("punctuation:no_comma", {"number": 3}, "a")
    with pytest.raises(ValueError, match="relation must be"):
        is_followed("length_constraints:number_words", {"num_words": 3, "relation": "about"}, "a")
    try:
        import langdetect  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install langdetect"):
            is_followed("language:response_language", {"language": "en"}, "hello")


def test_following_is_counted_per_prompt_and_instruction():
    comma, end = ("punctuation:no_comma", {}), ("startend:end_checker", {"end_phrase": "done"})
    prompts = [InstructionPrompt("p", (comma, end)), InstructionPrompt("q", (comma,)), InstructionPrompt("r", (end,))]
    found = summarise_following(prompts, ["a\nall done", "a, b", "is it done\nHope this helps!"])
    assert found.prompts_strict.value == pytest.approx(1 / 3)
    assert found.prompts_loose.value == pytest.approx(2 / 3)
    assert found.instructions_strict.value == pytest.approx(2 / 4)
    assert found.instructions_loose.value == pytest.approx(3 / 4)
    assert found.kinds["startend"].value == 0.5 and found.kinds["punctuation"].value == 0.5
    assert set(loose_versions("*a*\nb\nc")) == {"*a*\nb\nc", "a\nb\nc", "b\nc", "*a*\nb", "a\nb", "b"}
    with pytest.raises(ValueError, match="one response per prompt"):
        summarise_following(prompts, ["a"])


def test_generated_instructions_can_all_be_kept():
    prompts = generated_prompts(count=60, seed=0)
    assert prompts == generated_prompts(count=60, seed=0) != generated_prompts(count=60, seed=1)
    for prompt in prompts:
        story = "It rained. " * 5
        for name, arguments in prompt.instructions:
            story = f"{arguments['keywords'][0]}. " + story if name == "keywords:existence" else story
        story += "That was all."
        kept = {name: is_followed(name, arguments, story) for name, arguments in prompt.instructions}
        short = [a["num_words"] for n, a in prompt.instructions if n == "length_constraints:number_words"]
        assert all(ok for name, ok in kept.items() if name != "length_constraints:number_words" or short[0] > 20)


class PositionJudge:
    """Prefers whatever it reads first, whatever it says."""

    def prefer_second(self, instruction, first, second):
        return 0.2


def test_position_swap_cancels_a_habit():
    triples = [(f"i{k}", "base", "output") for k in range(5)]
    found = summarise_judgements(judge_pairs(PositionJudge(), triples))
    assert found.win_rate.value == pytest.approx(0.5) and found.first_position == pytest.approx(0.8)
    assert found.disagreements == 1.0 and found.no_verdict == 0.0


def test_length_control_takes_a_judge_of_length_to_one_half():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 200, size=(400, 2))
    triples = [("i", "b" * b, "o" * o) for b, o in lengths]
    longer = [("i", b, o + "o" * 60) for _, b, o in triples]
    found = summarise_judgements(judge_pairs(LengthJudge(), longer))
    assert found.win_rate.value > 0.7 and found.length_slope > 2
    assert found.length_controlled == pytest.approx(0.5, abs=0.1)
    assert found.mean_length[0] == pytest.approx(lengths[:, 1].mean() + 60)


def test_length_model_is_the_maximum_and_finds_its_parameters():
    rng = np.random.default_rng(1)
    difference = rng.normal(20, 80, size=20_000)
    x = np.tanh(difference / difference.std())
    wins = rng.random(20_000) < 1 / (1 + np.exp(-(0.4 + 1.2 * x)))
    quality, slope = fit_length_model(wins.astype(float), difference)
    assert (quality, slope) == pytest.approx((0.4, 1.2), abs=0.08)

    def objective(a: float, b: float) -> float:
        p = 1 / (1 + np.exp(-(a + b * x)))
        return float(np.sum(wins * np.log(p) + ~wins * np.log1p(-p)) - 0.05 * (a * a + b * b))

    best = objective(quality, slope)
    assert all(best > objective(quality + da, slope + db) for da, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)))
    always = fit_length_model(np.ones(50), np.zeros(50))
    assert 2 < always[0] < 20 and always[1] == 0


def test_model_judge_reads_verdicts():
    replies = iter([["b"], [" (a)"], ["Answer B, since"], ["both are fine"], ["better is a"], [""]])
    asked = []

    def respond(prompts):
        asked.extend(prompts)
        return [next(replies)]

    judge_model = ModelJudge(respond)
    found = [judge_model.prefer_second("Say {x}", "one", "two") for _ in range(6)]
    assert found == [1.0, 0.0, 1.0, None, None, None]
    assert "Say {x}" in asked[0] and asked[0].index("\none\n") < asked[0].index("\ntwo\n")
    result = summarise_judgements(judge_pairs(SimpleNamespace(prefer_second=lambda *_: None), [("i", "a", "b")]))
    assert result.win_rate.value == 0.5 and result.no_verdict == 1.0
    with pytest.raises(ValueError, match="placeholders"):
        ModelJudge(respond, prompt="{first} or {second}")
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        judge_pairs(SimpleNamespace(prefer_second=lambda *_: 2.0), [("i", "a", "b")])
    with pytest.raises(ValueError, match="no judgements"):
        summarise_judgements([])


def test_likelihood_and_answer_judges(model):
    own = LikelihoodJudge(model, TOKENIZER.encode, FIRST, 64)
    prompt = [FIRST, *TOKENIZER.encode("hi\n")]
    rates = [nats(model, [*prompt, *TOKENIZER.encode(text)], len(prompt)) / len(text) for text in ("abc", "zzzzz")]
    assert own.prefer_second("hi", "abc", "zzzzz") == pytest.approx(1 / (1 + math.exp(rates[1] - rates[0])), rel=1e-3)
    assert (own.prefer_second("hi", "", "x"), own.prefer_second("hi", "x", "")) == (1.0, 0.0)
    knows = AnswerJudge({"q": "4"}, lambda response, truth: judge(response, truth, same_number))
    pairs = [("#### 4", "#### 5"), ("#### 5", "#### 4"), ("#### 4", "4.0 #### 4.0")]
    assert [knows.prefer_second("q", first, second) for first, second in pairs] == [0.0, 1.0, 0.5]


def test_pass_at_k_equals_counting_subsets():
    for n, c in itertools.product(range(1, 7), range(7)):
        if c > n:
            continue
        for k in range(1, n + 1):
            subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(3, 4, 1)


def test_mcnemar_equals_counting_coins():
    for gained, lost in itertools.product(range(6), range(6)):
        n = gained + lost
        extreme = [
            sum(coins) for coins in itertools.product((0, 1), repeat=n)
            if abs(sum(coins) - n / 2) >= abs(gained - n / 2)
        ]  # fmt: skip
        found = mcnemar(gained, lost)
        assert found.p_value == pytest.approx(len(extreme) / 2**n)
        assert found.z == pytest.approx((gained - lost) / math.sqrt(n) if n else 0.0)
    assert 0 < mcnemar(5000, 3000).p_value < 1e-100 and mcnemar(50_000, 10_000).p_value >= 0
    assert compare_paired([True, False, False], [False, True, True]) == mcnemar(2, 1)
    with pytest.raises(ValueError, match="same questions"):
        compare_paired([True], [])


def test_generated_answers_are_rewarded_and_pass_rates_estimated():
    examples = [Example(f"{k}", str(k)) for k in range(50)]

    def respond(prompts):
        return [[f"#### {int(p) + (j >= int(p) % 5)}" for j in range(4)] for p in prompts]

    answered = evaluate_generation(respond, examples, lambda r, a: judge(r, a, same_number), batch_size=7)
    right = [min(4, k % 5) for k in range(50)]
    assert [item.num_right for item in answered] == right
    rates = pass_rates(answered)
    assert list(rates) == [1, 2, 4]
    for k, rate in rates.items():
        assert rate.value == pytest.approx(np.mean([1 - math.comb(4 - c, k) / math.comb(4, k) for c in right]))
        assert 0 < rate.low < rate.value < rate.high <= 1
    assert str(share([True, False])).startswith("0.500 [")
    with pytest.raises(ValueError, match="no questions"):
        evaluate_generation(respond, [], lambda r, a: {})
