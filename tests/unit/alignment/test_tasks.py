"""Generated tasks: answers against an independent reader, splits that never meet, rewards that can say no."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import re
from fractions import Fraction

import pytest

from cs336_alignment.task import Task
from cs336_alignment.tasks.arithmetic import Arithmetic
from cs336_alignment.tasks.countdown import Countdown, solves
from cs336_alignment.tasks.final_answer import as_number, final_answer
from cs336_alignment.tasks.sorting import Sorting
from cs336_alignment.tasks.splits import SplitSizes, split_of
from cs336_alignment.tasks.word_problems import WordProblems

SIZES = SplitSizes(sft=120, preference=120, rl=300, test=150)
SPLITS = ("sft", "preference", "rl", "test")
SMALL = {
    "arithmetic": Arithmetic(operations="+-*", sizes=SIZES),
    "countdown": Countdown(sizes=SIZES),
    "sorting": Sorting(sizes=SIZES),
    "word-problems": WordProblems(min_steps=1, max_steps=4, distraction=0.5, sizes=SIZES),
}


def read_word_problem(prompt: str) -> tuple[int, list[str]]:
    """The answer and the chain of numbers, by a reader that keeps everybody's count and knows no generator."""
    counts: dict[str, int] = {}
    chains: dict[str, list[str]] = {}

    def change(name: str, sign: str, number: int) -> None:
        """Somebody's count goes up or down; counts nobody told of are of no use."""
        if name in counts:
            counts[name] += number if sign == "+" else -number
            chains[name] = [*chains[name], f"{sign}{number}"]

    for sentence in re.split(r"(?<=[.?]) ", prompt.strip()):
        words = sentence.rstrip(".?")
        if match := re.fullmatch(r"How many \w+ did (\w+) have", words):
            return counts[match[1]], chains[match[1]]
        if match := re.fullmatch(r"(\w+) had (\d+) (more|fewer) \w+ than (\w+)", words):
            name, number, more, other = match[1], int(match[2]), match[3] == "more", match[4]
            counts[name] = counts[other] + (number if more else -number)
            chains[name] = [*chains[other], f"{'+' if more else '-'}{number}"]
        elif match := re.fullmatch(r"(\w+) had (\d+) \w+", words):
            counts[match[1]], chains[match[1]] = int(match[2]), [match[2]]
        elif match := re.fullmatch(r"(\w+) gave (\w+) (\d+) \w+", words):
            change(match[1], "-", int(match[3]))
            change(match[2], "+", int(match[3]))
        elif match := re.fullmatch(r"(\w+) gave (\w+) half of the \w+", words):
            half, odd = divmod(counts[match[1]], 2)
            assert not odd
            counts[match[1]], chains[match[1]] = half, [*chains[match[1]], "/2"]
        elif match := re.fullmatch(r"Then (\w+) got as many \w+ again", words):
            counts[match[1]] *= 2
            chains[match[1]] = [*chains[match[1]], "*2"]
        elif match := re.fullmatch(r"(\w+) (lost|found) (\d+) \w+ in the \w+", words):
            change(match[1], "-" if match[2] == "lost" else "+", int(match[3]))
        else:
            raise AssertionError(f"unreadable: {sentence!r}")
    raise AssertionError(f"no question in {prompt!r}")


def essence(name: str, prompt: str) -> tuple:
    """What a problem asks, without order and words, computed from its prompt alone."""
    if name == "word-problems":
        return tuple(read_word_problem(prompt)[1])
    numbers = [int(word) for word in re.findall(r"\d+", prompt)]
    if name == "arithmetic":
        sign = prompt.split()[1]
        return (sign, *(numbers if sign == "-" else sorted(numbers)))
    if name == "countdown":
        return (*sorted(numbers[:-1]), "target", numbers[-1])
    return tuple(sorted(numbers))


@pytest.mark.parametrize("name", SMALL)
def test_the_splits_of_all_seeds_are_disjoint(name):
    task = SMALL[name]
    owners: dict[tuple, str] = {}
    for split, seed in itertools.product(SPLITS, (0, 1)):
        examples = task.examples(split, seed)
        prompts = [example.prompt for example in examples]
        assert len(examples) == getattr(SIZES, split) == len(set(prompts))
        for prompt in prompts:
            assert owners.setdefault(essence(name, prompt), split) == split


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_fixes_the_problems(name):
    task = SMALL[name]
    assert task.examples("test", 3) == task.examples("test", 3)
    assert task.examples("test", 3) != task.examples("test", 4)
    assert isinstance(task, Task)


def test_shares_of_the_splits():
    counts = {split: 0 for split in SPLITS}
    for number in range(20_000):
        counts[split_of(f"problem {number}")] += 1
    shares = {split: count / 20_000 for split, count in counts.items()}
    assert shares == pytest.approx({"sft": 0.15, "preference": 0.20, "rl": 0.45, "test": 0.20}, abs=0.01)


def test_arithmetic_is_right():
    apply = {"+": operator.add, "-": operator.sub, "*": operator.mul}
    for example in SMALL["arithmetic"].examples("rl", 0):
        first, sign, second, _ = example.prompt.split()
        assert int(example.answer) == apply[sign](int(first), int(second))
        units, answer = example.response.split("\n#### ")
        assert answer == example.answer
        assert units == f"{first[-1]} {sign} {second[-1]} = {apply[sign](int(first[-1]), int(second[-1]))}"


def test_word_problems_are_right():
    task = SMALL["word-problems"]
    lengths = set()
    for example in task.examples("rl", 0):
        answer, chain = read_word_problem(example.prompt)
        lengths.add(len(chain) - 1)
        assert int(example.answer) == answer <= task.largest
        value = int(chain[0])
        for line, step in zip(example.response.split("\n")[0].rstrip(".").split(". "), chain[1:], strict=True):
            match = re.fullmatch(r"(\d+) ([-+*/]) (\d+) = (\d+)", line)
            assert match and int(match[1]) == value and match[2] + match[3] == step
            value = int(match[4])
            apply = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}[match[2]]
            assert value == apply(int(match[1]), int(match[3])) <= task.largest
        assert example.response.endswith(f"\n#### {answer}")
    assert lengths == {1, 2, 3, 4}


def test_word_problems_run_out_of_people_gracefully():
    task = WordProblems(min_steps=20, max_steps=20, distraction=1.0, sizes=SIZES)
    for example in task.examples("test", 0):
        assert read_word_problem(example.prompt)[0] == int(example.answer)


def test_sorting_is_right():
    for example in SMALL["sorting"].examples("rl", 0):
        numbers = [int(word) for word in example.prompt.split()[1:]]
        assert 3 <= len(numbers) <= 5
        assert [int(word) for word in example.answer.split()] == sorted(numbers)


def test_countdown_solutions_solve():
    for example in SMALL["countdown"].examples("rl", 0):
        *numbers, target = [int(word) for word in re.findall(r"\d+", example.prompt)]
        exact = re.sub(r"\d+", lambda match: f"Fraction({match[0]})", example.answer)
        assert eval(exact, {"Fraction": Fraction}) == target
        assert sorted(map(int, re.findall(r"\d+", example.answer))) == sorted(numbers)


def test_countdown_grades_like_brute_force():
    solution = "(7 - 4) * 8 + 2"
    accepted = set()
    for a, b, c, d in itertools.permutations("7482"):
        for p, q, r in itertools.product("+-*/", repeat=3):
            for text in (f"{a}{p}{b}{q}{c}{r}{d}", f"({a}{p}{b}){q}({c}{r}{d})", f"(({a}{p}{b}){q}{c}){r}{d}"):
                try:
                    value = eval(re.sub(r"\d", lambda match: f"Fraction({match[0]})", text), {"Fraction": Fraction})
                except ZeroDivisionError:
                    value = None
                assert solves(text, solution) == (value == 26), text
                accepted.add(value == 26)
    assert accepted == {True, False}


@pytest.mark.parametrize(
    "wrong",
    ["26", "7 * 4 - 2", "(7 - 4) * 8 + 2 + 0", "(7 - 4) * 8 + 2 + 2 - 2", "7 - 4 * 8 + 2", "", "2 + 8 * (7 - 4", "x"],
)
def test_countdown_refuses_other_numbers_values_and_junk(wrong):
    assert not solves(wrong, "(7 - 4) * 8 + 2")


@pytest.mark.parametrize("name", SMALL)
def test_the_shown_solution_fits_and_earns_the_reward(name):
    task = SMALL[name]
    for example in task.examples("test", 0):
        assert task.reward(example.response, example.answer) == {
            "format_reward": 1.0, "answer_reward": 1.0, "reward": 1.0
        }  # fmt: skip
        assert len(example.response.encode()) < task.max_tokens


@pytest.mark.parametrize(
    "response, expected",
    [
        ("7 + 5 = 12.\n#### 12", (1, 1)),
        ("#### 12.0", (1, 1)),
        ("#### $12.", (1, 1)),
        ("#### 11\n#### 12", (1, 1)),
        ("#### 12\nand more words", (1, 1)),
        ("#### 12\n#### 11", (1, 0)),
        ("#### 12 marbles", (1, 0)),
        ("#### 13", (1, 0)),
        ("####", (0, 0)),
        ("12", (0, 0)),
        ("", (0, 0)),
        ("#### 1\u0662", (1, 0)),
        ("#### 12/0", (1, 0)),
    ],
)
def test_rewards_of_number_answers(response, expected):
    reward = WordProblems().reward(response, "12")
    assert (reward["format_reward"], reward["answer_reward"], reward["reward"]) == (*expected, expected[1])


def test_numbers_as_gsm8k_writes_them():
    cases = {"1,234": 1234, "-3.5": Fraction(-7, 2), "$5": 5, "50%": 50, "1/4": Fraction(1, 4), "18.": 18, ".5": 0.5}
    for text, value in cases.items():
        assert as_number(text) == value
    for text in ("", "five", "1e5", "--3", "9" * 101, "1 2"):
        assert as_number(text) is None
    assert final_answer("a #### b #### \n") is None


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: SplitSizes(rl=0), "rl must be at least 1"),
        (lambda: Arithmetic(digits=0), "digits must lie in"),
        (lambda: Arithmetic(operations="^"), "operations must be some of"),
        (lambda: Sorting(min_length=4, max_length=3), "min_length"),
        (lambda: Countdown(max_numbers=9), "max_numbers"),
        (lambda: WordProblems(min_steps=0), "min_steps"),
        (lambda: WordProblems(distraction=2.0), "distraction"),
        (lambda: WordProblems(terse=-0.1), "terse"),
        (lambda: Arithmetic(digits=1, sizes=SIZES).examples("sft", 0), "has only about .* ask for fewer"),
        (lambda: Arithmetic().examples("train", 0), "split must be one of"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_terse_teacher_leaves_out_the_working_of_some_and_nothing_else():
    plain, terse = (WordProblems(terse=share, sizes=SplitSizes(sft=400, rl=50)) for share in (0.0, 0.4))
    pairs = list(zip(plain.examples("sft", 3), terse.examples("sft", 3), strict=True))
    changed = [(a, b) for a, b in pairs if a != b]
    assert 120 < len(changed) < 200  # binomial: 160, sd 10
    assert all(b == dataclasses.replace(a, response=f"#### {a.answer}") for a, b in changed)
    assert all(terse.reward(b.response, b.answer)["reward"] == 1.0 for _, b in changed)
    assert terse.examples("rl", 3) == plain.examples("rl", 3)
