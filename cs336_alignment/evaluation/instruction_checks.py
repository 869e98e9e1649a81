"""Instructions whose keeping a program can verify: the 25 kinds of IFEval, each a predicate of the response.

    length_constraints:number_words   {"relation": "at least", "num_words": 50}
    punctuation:no_comma              {}

Names and arguments are those of the public file, whose unused arguments are null. Sentences are counted by a rule
(`.`, `!` or `?` before a space or the end) instead of NLTK's trained splitter: abbreviations may count as ends.

Source: Zhou et al. 2023 (IFEval). Read next: `instruction_following.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Check = Callable[..., bool]


def _compare(count: int, relation: str, bound: int) -> bool:
    """`at least` or `less than`, the two relations of the file."""
    if relation not in ("at least", "less than"):
        raise ValueError(f"relation must be 'at least' or 'less than'; got {relation!r}")
    return count >= bound if relation == "at least" else count < bound


def keywords_exist(response: str, *, keywords: list[str]) -> bool:
    """All keywords occur, in any case."""
    return all(re.search(re.escape(word), response, re.IGNORECASE) for word in keywords)


def keyword_frequency(response: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """A keyword occurs so often."""
    return _compare(len(re.findall(re.escape(keyword), response, re.IGNORECASE)), relation, frequency)


def no_forbidden_words(response: str, *, forbidden_words: list[str]) -> bool:
    """None of the words occurs as a whole word."""
    return not any(re.search(rf"\b{re.escape(word)}\b", response, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(response: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """A letter occurs so often, in any case."""
    return _compare(response.lower().count(letter.lower()), let_relation, let_frequency)


def is_in_language(response: str, *, language: str) -> bool:
    """The response is in the language with this ISO 639-1 code."""
    try:
        from langdetect import DetectorFactory, LangDetectException, detect
    except ImportError as error:
        raise ImportError(
            "language:response_language needs langdetect; install it with: pip install langdetect"
        ) from error
    DetectorFactory.seed = 0
    try:
        return detect(response) == language
    except LangDetectException:
        return False


def number_of_sentences(response: str, *, num_sentences: int, relation: str) -> bool:
    """So many sentences."""
    sentences = re.split(r"(?<=[.!?])[\"')\]]*\s+", response.strip())
    return _compare(len(sentences), relation, num_sentences)


def number_of_words(response: str, *, num_words: int, relation: str) -> bool:
    """So many words (runs of letters, digits and underscores)."""
    return _compare(len(re.findall(r"\w+", response)), relation, num_words)


def number_of_paragraphs(response: str, *, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs, parted by lines of `***`; none of them empty."""
    parts = re.split(r"\s?\*\*\*\s?", response)
    inner = parts[1:-1]
    if any(not part.strip() for part in inner):
        return False
    return sum(bool(part.strip()) for part in parts) == num_paragraphs


def paragraph_first_word(response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """So many paragraphs, parted by blank lines, of which the n-th begins with a word."""
    paragraphs = [part.strip() for part in response.split("\n\n") if part.strip()]
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    found = re.match(r"[\"']*([^\s.,?!\"']*)", paragraphs[nth_paragraph - 1])
    return found is not None and found[1].lower() == first_word.lower()


def number_of_placeholders(response: str, *, num_placeholders: int) -> bool:
    """At least so many placeholders in square brackets."""
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


def has_postscript(response: str, *, postscript_marker: str) -> bool:
    """A postscript with this marker."""
    patterns = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    pattern = patterns.get(postscript_marker, rf"\s*{re.escape(postscript_marker.lower())}.*$")
    return re.search(pattern, response.lower(), re.MULTILINE) is not None


def number_of_bullets(response: str, *, num_bullets: int) -> bool:
    """Exactly so many bullet points, `*` or `-`."""
    stars = re.findall(r"^\s*\*[^\*].*$", response, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", response, re.MULTILINE)) == num_bullets


def is_constrained_answer(response: str) -> bool:
    """One of the three fixed answers occurs."""
    return any(f"My answer is {word}." in response for word in ("yes", "no", "maybe"))


def number_of_highlights(response: str, *, num_highlights: int) -> bool:
    """At least so many stretches *like this* or **like this**."""
    once = [text for text in re.findall(r"\*[^\n\*]*\*", response) if text.strip("*").strip()]
    twice = [text for text in re.findall(r"\*\*[^\n\*]*\*\*", response) if text.strip("*").strip()]
    return len(once) + len(twice) >= num_highlights


def number_of_sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many sections, each begun by the word and a number."""
    return len(re.split(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", response)) - 1 >= num_sections


def is_json(response: str) -> bool:
    """The whole response is JSON, perhaps in a code fence."""
    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", response.strip(), flags=re.IGNORECASE)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def has_title(response: str) -> bool:
    """A title in double angle brackets."""
    return any(title.strip("<> ") for title in re.findall(r"<<[^\n]+?>>", response))


def has_two_responses(response: str) -> bool:
    """Two different answers, parted by six asterisks."""
    parts = response.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    answers = [part.strip() for part in parts if part.strip()]
    return len(answers) == 2 and answers[0] != answers[1]


def repeats_prompt(response: str, *, prompt_to_repeat: str) -> bool:
    """It begins with the request, word for word."""
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def ends_with(response: str, *, end_phrase: str) -> bool:
    """It ends with the phrase."""
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def is_quoted(response: str) -> bool:
    """It stands in double quotation marks."""
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def capital_word_frequency(response: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """So many words all in capitals."""
    words = re.findall(r"\w[\w'-]*", response)
    return _compare(sum(word.isupper() for word in words), capital_relation, capital_frequency)


CHECKS: dict[str, Check] = {
    "keywords:existence": keywords_exist,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": no_forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": is_in_language,
    "length_constraints:number_sentences": number_of_sentences,
    "length_constraints:number_paragraphs": number_of_paragraphs,
    "length_constraints:number_words": number_of_words,
    "length_constraints:nth_paragraph_first_word": paragraph_first_word,
    "detectable_content:number_placeholders": number_of_placeholders,
    "detectable_content:postscript": has_postscript,
    "detectable_format:number_bullet_lists": number_of_bullets,
    "detectable_format:constrained_response": is_constrained_answer,
    "detectable_format:number_highlighted_sections": number_of_highlights,
    "detectable_format:multiple_sections": number_of_sections,
    "detectable_format:json_format": is_json,
    "detectable_format:title": has_title,
    "combination:two_responses": has_two_responses,
    "combination:repeat_prompt": repeats_prompt,
    "startend:end_checker": ends_with,
    "startend:quotation": is_quoted,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": lambda response: response.isupper(),
    "change_case:english_lowercase": lambda response: response.islower(),
    "punctuation:no_comma": lambda response: "," not in response,
}


def is_followed(name: str, arguments: dict[str, Any], response: str) -> bool:
    """Whether a response keeps one instruction; an empty response keeps none.

    Raises:
        ValueError: an unknown instruction, or arguments that do not fit it.
    """
    if name not in CHECKS:
        raise ValueError(f"unknown instruction {name!r}; known are {', '.join(sorted(CHECKS))}")
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        return bool(response.strip()) and CHECKS[name](response, **given)
    except TypeError as error:
        raise ValueError(f"instruction {name}: the arguments {given} do not fit: {error}") from error
