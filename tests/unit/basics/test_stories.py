"""Stories: exact probabilities by enumeration, lookups by an independent solver, files by recounting."""

import dataclasses
import hashlib
import json
import math
import random
import re

import pytest

from cs336_basics.corpora.stories import (
    DEFAULT,
    EventWeights,
    StoryConfig,
    ThingGroup,
    cloze_questions,
    entropy_floor,
    generate_story,
    log_probability,
    write_stories,
)
from cs336_basics.corpora.story_grammar import tell
from cs336_basics.corpora.story_narrators import Writer

TINY = StoryConfig(
    girls=("Mia",),
    boys=("Tom",),
    places=("garden", "barn"),
    groups=(ThingGroup(adjectives=("old",), feelings=("hungry",), singular=("pear",), plural=("buns",)),),
    openings=("Once",),
    weathers=("It rained", "Snow fell"),
    manners=("",),
    asides=("",),
    closings=("It was late", "All slept"),
    num_things=1,
    together_weight=0,
    apart_weight=1,
    friend_weight=0,
    no_friend_weight=1,
    min_events=1,
    max_events=2,
)
TALKATIVE = dataclasses.replace(
    TINY,
    together_weight=1,
    apart_weight=0,
    boys=("Tom", "Ben"),
    girls=(),
    max_events=1,
    openings=("Once", "Today"),
    weathers=("It rained", "Snow fell"),
    manners=("", "at once"),
    asides=("",),
    closings=("It was late", "It was late and dark"),
)


class Enumerator:
    """Follows a given list of decisions, then takes first options; records what else was possible."""

    def __init__(self, decisions):
        self.decisions, self.taken, self.text, self.probability = decisions, [], "", 1.0

    def choose(self, texts, weights):
        possible = [index for index, weight in enumerate(weights) if weight]
        number = self.decisions[len(self.taken)] if len(self.taken) < len(self.decisions) else 0
        self.taken.append((number, len(possible)))
        self.text += texts[possible[number]]
        self.probability *= weights[possible[number]] / sum(weights)
        return possible[number]

    def say(self, text):
        self.text += text

    def answer(self, text, kind):
        self.text += text


def enumerate_stories(config):
    decisions = []
    while decisions is not None:
        narrator = Enumerator(decisions)
        tell(narrator, config)
        yield narrator.text, narrator.probability
        taken = narrator.taken
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        decisions = [number for number, _ in taken[:-1]] + [taken[-1][0] + 1] if taken else None


@pytest.mark.parametrize("config", [TINY, TALKATIVE], ids=["tiny", "talkative"])
def test_probabilities_of_all_stories_sum_to_one(config):
    stories = list(enumerate_stories(config))
    assert len(stories) > 500
    assert len({text for text, _ in stories}) == len(stories)
    assert abs(math.fsum(probability for _, probability in stories) - 1) < 1e-12
    for text, probability in stories[::7]:
        assert math.isclose(math.exp(log_probability(text, config=config)), probability, rel_tol=1e-12)


def test_sampling_follows_the_enumerated_distribution():
    config = dataclasses.replace(TINY, max_events=1)
    exact = dict(enumerate_stories(config))
    rng = random.Random(3)
    draws = 20_000
    counts = dict.fromkeys(exact, 0)
    for _ in range(draws):
        counts[generate_story(rng, config=config).text] += 1
    chi_square = math.fsum((counts[text] - draws * p) ** 2 / (draws * p) for text, p in exact.items())
    degrees = len(exact) - 1
    assert abs(chi_square - degrees) < 5 * math.sqrt(2 * degrees)


def test_entropy_is_the_expectation_of_both_estimates():
    exact = -math.fsum(p * math.log(p) for _, p in enumerate_stories(TINY))
    rng = random.Random(5)
    stories = [generate_story(rng, config=TINY) for _ in range(4000)]
    for values in ([-story.log_probability for story in stories], [story.entropy for story in stories]):
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values) ** 2)
        assert abs(mean - exact) < 4 * deviation


class PrefixChecker(Writer):
    """A writer that checks at every choice that no possible option begins another one."""

    num_choices = 0

    def choose(self, texts, weights):
        self.num_choices += 1
        possible = sorted(text for text, weight in zip(texts, weights, strict=True) if weight)
        assert possible
        assert all(isinstance(weight, int) and weight >= 0 for weight in weights)
        assert not any(second.startswith(first) for first, second in zip(possible, possible[1:], strict=False))
        return super().choose(texts, weights)


@pytest.mark.parametrize("config", [DEFAULT, TALKATIVE], ids=["default", "talkative"])
def test_no_option_is_a_prefix_of_another(config):
    rng = random.Random(11)
    choices = 0
    for _ in range(1500):
        narrator = PrefixChecker(rng)
        tell(narrator, config)
        choices += narrator.num_choices
    assert choices > 15_000, "the checker met too few choices"


def test_reader_and_writer_agree():
    rng = random.Random(7)
    for _ in range(300):
        story = generate_story(rng)
        assert math.isclose(log_probability(story.text), story.log_probability, rel_tol=1e-12)
        assert story.text.isascii() and story.text.endswith(".\n") and story.text.count("\n") == 1


def test_reader_refuses_what_is_no_story():
    text = generate_story(random.Random(1)).text
    for wrong in (
        text[:-1],
        text + "x",
        text.replace(" the ", " a ", 1),
        text.replace("was", "were", 1),
        "",
        "Hello\n",
    ):
        with pytest.raises(ValueError, match=r"probability 0.*at character"):
            log_probability(wrong)


def test_wrong_state_has_probability_zero():
    rng, tried = random.Random(2), 0
    for _ in range(200):
        story = generate_story(rng)
        for answer in story.answers:
            if answer.kind.startswith("where"):
                wrong = " hall" if answer.text != " hall" else " cave"
                after = answer.position + len(answer.text)
                with pytest.raises(ValueError, match=f"at character {answer.position} "):
                    log_probability(story.text[: answer.position] + wrong + story.text[after:])
                tried += 1
    assert tried > 200


# An independent solver: it knows English sentences, not the grammar's code.

PERSON = r"([A-Z][a-z]+)"
THING = r"the ([a-z]+ [a-z]+)"
BE = r"(?:is|are|was|were)"
UNITS = [
    ("pair", rf"(?:[A-Z][a-z ]+, )?{PERSON} and {PERSON} were in the (\w+)\."),
    ("is_at", rf"(?:[A-Z][a-z ]+, |Their friend ){PERSON} was in the (\w+)\."),
    ("lies", r"(?:Meanwhile,|And) (?:an?|some) ([a-z]+ [a-z]+) (?:was|were) in the (\w+)\."),
    ("pair", rf"{PERSON} and {PERSON} went to the (\w+)(?: [a-z ]+)?\."),
    ("goes", rf"{PERSON} went to the (\w+)(?: [a-z ]+)?\."),
    ("wants", rf"{PERSON} was (\w+) and wanted {THING}\."),
    ("takes", rf"{PERSON} took {THING}(?: [a-z ]+)?\."),
    ("puts", rf"{PERSON} put down {THING}(?: [a-z ]+)?\."),
    ("puts", rf"{PERSON} left {THING} in the \w+\."),
    ("gives", rf"{PERSON} gave {THING} to {PERSON}(?: because s?he was \w+)?\."),
    (
        "goes",
        rf"{PERSON} looked for the [a-z]+ [a-z]+\. (?:She|He) found (?:it|them)(?: with [A-Z]\w+)? in the (\w+)\.",
    ),
    ("goes", rf"{PERSON} looked for [A-Z]\w+\. (?:She|He) found (?:her|him) in the (\w+)\."),
    ("thing_told", rf"(?:Now the|The) [a-z ]+ {BE}(?: with [A-Z]\w+)? in the \w+(?:, [A-Za-z ]+)?\."),
    ("told", rf"Now {PERSON} was in the \w+(?:, [A-Za-z ]+)?\."),
    ("all_told", r"In the end(?:(?:,| and) [A-Z]\w+ was in the \w+)+\."),
    ("thing_told", r"Who had the [a-z ]+\? \w+ had (?:it|them)(?:, [A-Za-z ]+)?\."),
    ("told", rf"Why did {PERSON} want the [a-z ]+\? (?:She|He) was \w+(?:, [A-Za-z ]+)?\."),
    ("said", rf'"[^"]*" asked \w+\. "[^"]*" said {PERSON}\.'),
    ("weather", "(?:" + "|".join(DEFAULT.weathers) + r")\."),
    ("is_at", rf"{PERSON} was in the (\w+)\."),  # the second person of the opening
]
TOLD_OR_FOUND = rf"(?:{THING} {BE}|looked for {THING}\. (?:She|He) found (?:it|them))"
QUERIES = [
    ("why_want", rf"{PERSON} took {THING} because s?he was$"),
    ("why_of", rf"gave {THING} to {PERSON} because s?he was$"),
    ("where", rf"{PERSON} left {THING} in the$"),
    ("holder", rf"(?i:{TOLD_OR_FOUND}) with$"),
    ("place_of", rf"(?i:{TOLD_OR_FOUND})(?: with [A-Z]\w+)? in the$"),
    ("where", rf"looked for {PERSON}\. (?:She|He) found (?:her|him) in the$"),
    ("where", rf"{PERSON} (?:is|was) in the$"),
    ("holder", rf"Who had {THING}\?$"),
    ("holder", rf'Who has {THING}\?" asked \w+\. "(?:I have (?:it|them)," said|(?:It is|They are) with)$'),
    ("why_want", rf"Why did {PERSON} want {THING}\? (?:She|He) was$"),
    ("why_want", rf'"{PERSON}, why do you want {THING}\?" asked \w+\. "I am$'),
]


def solve(prompt):
    where, lying, holder, feeling, subject = {}, {}, {}, {}, None
    position = 0
    while position < len(prompt):
        matches = ((action, re.compile(rf" ?{pattern}").match(prompt, position)) for action, pattern in UNITS)
        action, match = next(((action, match) for action, match in matches if match), ("", None))
        if match is None:
            break
        position = match.end()
        words = [subject if word in ("She", "He") else word for word in match.groups()]
        if action == "pair":
            where[words[0]] = where[words[1]] = words[2]
        elif action in ("is_at", "goes"):
            where[words[0]] = words[1]
        elif action == "lies":
            lying[words[0]] = words[1]
        elif action == "wants":
            feeling[words[0]] = words[1]
        elif action == "takes":
            holder[words[1]] = words[0]
        elif action == "puts":
            lying[words[1]] = where[words[0]]
            del holder[words[1]]
        elif action == "gives":
            holder[words[1]] = words[2]
        if action in ("goes", "wants", "takes", "puts", "gives", "told", "said"):
            subject = words[0]
    for query, pattern in QUERIES:
        match = re.search(pattern, prompt[position:])
        if match:
            words = [subject if word in ("She", "He") else word for word in match.groups() if word]
            if query == "why_of":
                return feeling[words[1]]
            if query == "why_want":
                return feeling[words[0]]
            if query == "where":
                return where[words[0]]
            if query == "holder":
                return holder.get(words[0], "Nobody")
            return where[holder[words[0]]] if words[0] in holder else lying[words[0]]
    raise AssertionError(f"cannot read {prompt[position:]!r}")


def test_an_independent_solver_answers_every_lookup():
    rng, kinds = random.Random(13), {}
    for _ in range(400):
        story = generate_story(rng)
        for answer in story.answers:
            assert story.text.startswith(answer.text, answer.position)
            assert " " + solve(story.text[: answer.position]) == answer.text, story.text[: answer.position]
            kinds[answer.kind] = kinds.get(answer.kind, 0) + 1
    assert set(kinds) == {"where_thing", "where_carried", "where_person", "who_holds", "why"}
    assert min(kinds.values()) > 100


def test_cloze_questions():
    questions = cloze_questions(random.Random(17), count=500)
    by_kind = {}
    for question in questions:
        assert len(set(question.candidates)) == 4
        assert question.answer in question.candidates
        assert all(re.fullmatch(r" [A-Za-z]+", candidate) for candidate in question.candidates)
        assert not question.prompt.endswith(" ")
        mentioned = [word for word in question.candidates if re.search(rf"{word}\b", question.prompt)]
        assert len(mentioned) >= 2 or " Nobody" in question.candidates
        by_kind.setdefault(question.kind, []).append(question)
    assert {kind: len(group) for kind, group in by_kind.items()} == dict.fromkeys(by_kind, 100)
    assert len(by_kind) == 5
    assert all(" " + solve(question.prompt) == question.answer for question in questions)
    places = [question.candidates.index(question.answer) for question in questions]
    assert max(map(places.count, range(4))) < 175


def test_cloze_questions_need_the_state():
    questions = cloze_questions(random.Random(19), count=500)

    def score(guess):
        return sum(guess(question) == question.answer for question in questions) / len(questions)

    last = score(lambda question: max(question.candidates, key=question.prompt.rfind))
    most = score(lambda question: max(question.candidates, key=question.prompt.count))
    first = score(lambda question: min(question.candidates, key=f"{question.prompt}{question.candidates}".find))
    assert last < 0.6 and most < 0.6 and first < 0.6


def test_cloze_errors():
    with pytest.raises(ValueError, match="count must be at least 1"):
        cloze_questions(random.Random(0), count=0)
    with pytest.raises(ValueError, match="at least 4 words"):
        cloze_questions(random.Random(0), count=1, config=TINY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"girls": ("Ann", "Anna")}, "'Ann' begins or repeats 'Anna'"),
        ({"girls": ("Mia", "Mia")}, "begins or repeats"),
        ({"girls": ("mia",)}, "'mia' does not match"),
        ({"girls": ("Mia", "She")}, r"\['She'\] have a meaning of their own"),
        ({"manners": ("slowly", "slowly")}, "manners: 'slowly' begins or repeats"),
        ({"manners": ("Slowly",)}, "'Slowly' does not match"),
        ({"closings": ()}, "closings is empty"),
        ({"closings": ("That was all.",)}, "'That was all.' does not match"),
        ({"groups": (dataclasses.replace(TINY.groups[0], adjectives=("old", "old")),)}, "each once; got"),
        ({"groups": (DEFAULT.groups[1], dataclasses.replace(TINY.groups[0], feelings=()))}, "words of each kind"),
        ({"places": ("hall",)}, "needs at least 3 names and 3 places"),
        ({"places": (*DEFAULT.places, "ball")}, r"\['ball'\] stand in two kinds of words"),
        ({"num_things": 0}, "num_things must be from 1"),
        ({"min_events": 9, "max_events": 8}, "min_events <= max_events; got 9 and 8"),
        ({"known_place_weight": 0}, "known_place_weight must be at least 1; got 0"),
        ({"friend_weight": 0, "no_friend_weight": 0}, "friend_weight and no_friend_weight"),
        ({"weights": EventWeights(go=0)}, "EventWeights.go"),
        ({"weights": EventWeights(give=-1)}, "EventWeights.give"),
    ],
)
def test_config_errors(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DEFAULT, **change)


def test_written_files_agree_with_the_manifest(tmp_path):
    calls = []
    manifest = write_stories(
        tmp_path,
        num_train=60,
        num_valid=15,
        seed=4,
        num_cloze=10,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(75, 75)]
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    documents = {}
    for split, count in (("train", 60), ("valid", 15)):
        content = (tmp_path / f"{split}.txt").read_bytes()
        assert hashlib.sha256(content).hexdigest() == manifest[split]["sha256"]
        *documents[split], rest = content.decode().split("<|endoftext|>")
        assert rest == "" and len(documents[split]) == manifest[split]["documents"] == count
        assert manifest[split]["bytes"] == sum(len(document.encode()) for document in documents[split])
        nats = -sum(log_probability(document) for document in documents[split])
        assert math.isclose(manifest[split]["nats"], nats, rel_tol=1e-9)
    assert not set(documents["train"]) & set(documents["valid"])
    lines = (tmp_path / "cloze.jsonl").read_text().splitlines()
    assert len(lines) == 10
    assert all(" " + solve(question["prompt"]) == question["answer"] for question in map(json.loads, lines))


def test_writing_is_deterministic_and_idempotent(tmp_path):
    first = write_stories(tmp_path / "a", num_train=20, num_valid=5, seed=1, num_cloze=5)
    assert write_stories(tmp_path / "b", num_train=20, num_valid=5, seed=1, num_cloze=5) == first
    assert write_stories(tmp_path / "c", num_train=20, num_valid=5, seed=2, num_cloze=5)["train"] != first["train"]
    train = tmp_path / "a" / "train.txt"
    before = train.stat().st_mtime_ns
    assert write_stories(tmp_path / "a", num_train=20, num_valid=5, seed=1, num_cloze=5) == first
    assert train.stat().st_mtime_ns == before
    train.write_text("broken")
    assert write_stories(tmp_path / "a", num_train=20, num_valid=5, seed=1, num_cloze=5) == first
    assert hashlib.sha256(train.read_bytes()).hexdigest() == first["train"]["sha256"]


def test_training_stories_are_removed_from_validation(tmp_path):
    config = dataclasses.replace(
        TINY,
        girls=("Mia", "Rose"),
        boys=("Tom", "Sam"),
        places=("garden", "barn", "hall", "cave"),
        groups=(dataclasses.replace(TINY.groups[0], feelings=("sad", "wet", "cold", "hot"), plural=()),),
        max_events=5,
        mean_extra_events=1,
    )
    manifest = write_stories(tmp_path, num_train=6000, num_valid=300, seed=1, num_cloze=5, config=config)
    train, valid = ((tmp_path / name).read_text().split("<|endoftext|>")[:-1] for name in ("train.txt", "valid.txt"))
    assert manifest["valid"]["removed"] > 0 == manifest["train"]["removed"]
    assert manifest["valid"]["documents"] == len(valid) == 300 - manifest["valid"]["removed"]
    assert not set(train) & set(valid)


def test_several_processes_write_the_same_text(tmp_path):
    one = write_stories(tmp_path / "one", num_train=20, num_valid=5, seed=1, num_cloze=5)
    assert write_stories(tmp_path / "two", num_train=20, num_valid=5, seed=1, num_cloze=5, num_processes=2) == one


def test_entropy_floor():
    floor = entropy_floor({"nats": 80.0, "bytes": 600}, num_tokens=160)
    assert floor == {"nats_per_token": 0.5, "bits_per_byte": pytest.approx(80 / 600 / 0.6931471805599453)}
    with pytest.raises(ValueError, match="num_tokens must be at least 1; got 0"):
        entropy_floor({"nats": 80.0, "bytes": 600}, num_tokens=0)
    with pytest.raises(ValueError, match="at least 1"):
        write_stories("unused", num_train=0, num_valid=1, seed=0)


# sha256(generate_story(random.Random(0)).text)[:16]; once released, a change of it must raise GRAMMAR_VERSION.
PINNED = "565b31c4515af3f4"


def test_the_text_of_a_seed_never_changes():
    assert hashlib.sha256(generate_story(random.Random(0)).text.encode()).hexdigest()[:16] == PINNED
