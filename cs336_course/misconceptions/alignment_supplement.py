"""Wrong packed data, DPO losses and readings of free text (supplement of assignment 5). Read next: `diagnosis.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cs336_course.misconceptions.bank import Misconception, wrong

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:\n{}"
)


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_packing(), *_dpo(), *_letters(), *_numbers()]


def document(tokenizer: Any, prompt: str, response: str, how: str) -> list[int]:
    """The ids of one document, right with `how` = ""."""
    text = ALPACA.format(prompt, response)
    if how == "no-template":
        text = f"{prompt} {response}"
    elif how == "response-only":
        text = response
    elif how == "newline-kept":
        text += "\n"
    elif how == "fields-swapped":
        text = ALPACA.format(response, prompt)
    ids = list(tokenizer.encode(text, add_special_tokens=how != "no-bos"))
    end = {"no-eos": [], "two-eos": [tokenizer.eos_token_id] * 2, "bos-for-eos": [tokenizer.bos_token_id]}
    return [tokenizer.eos_token_id, *ids] if how == "eos-first" else [*ids, *end.get(how, [tokenizer.eos_token_id])]


class _Packed(torch.utils.data.Dataset):
    """A packed data set with a deviation."""

    def __init__(self, documents: list[list[int]], m: int, how: str) -> None:
        self.m, self.how = m, how
        self.ids = [token for row in documents for token in row]
        self.rows = [row for row in documents if len(row) > m] if how == "not-packed" else None
        self.step = {"overlapping": 1, "label-dropped": m + 1}.get(how, m)

    def __len__(self) -> int:
        if self.rows is not None:
            return len(self.rows)
        if self.how == "one-item-more":
            return len(self.ids) // self.m
        if self.how == "one-item-less":
            return (len(self.ids) - 1) // self.m - 1
        if self.how == "short-item":
            return -(-(len(self.ids) - 1) // self.m)
        return (len(self.ids) - 1 - self.m) // self.step + 1

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        if not 0 <= i < len(self) and self.how != "endless":
            raise IndexError(i)
        ids, start = (self.rows[i], 0) if self.rows is not None else (self.ids, i * self.step)
        window = ids[start : start + self.m + 1]
        if self.how == "one-item-more" and len(window) <= self.m:
            window = [*window, self.ids[0]]
        x, y = window[:-1], window[1:]
        if self.how == "labels-not-shifted":
            y = x
        kind = torch.int32 if self.how == "int32" else torch.int64
        return {"input_ids": torch.tensor(x, dtype=kind), "labels": torch.tensor(y, dtype=kind)}


def _packing() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def get_packed_sft_dataset(tokenizer: Any, dataset_path: Any, seq_length: int, shuffle: bool) -> Any:
            with open(dataset_path, encoding="utf-8") as file:
                pairs = [json.loads(line) for line in file]
            rows = [document(tokenizer, pair["prompt"], pair["response"], how) for pair in pairs]
            if (shuffle and how != "never-shuffled") or how == "always-shuffled":
                order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
                rows = [rows[i] for i in order]
                if how == "tokens-shuffled":
                    flat = [token for row in rows for token in row]
                    rows = [
                        [
                            flat[i]
                            for i in torch.randperm(len(flat), generator=torch.Generator().manual_seed(1)).tolist()
                        ]
                    ]
            return _Packed(rows, seq_length, how)

        def run_iterate_batches(dataset: Any, batch_size: int, shuffle: bool) -> Any:
            mixed = {"batches-unshuffled": False, "batches-shuffled": True}.get(how, shuffle)
            return torch.utils.data.DataLoader(
                dataset, batch_size, shuffle=mixed, drop_last=how == "last-batch-dropped"
            )

        return wrong(
            "data_loading",
            how,
            says,
            example,
            get_packed_sft_dataset=get_packed_sft_dataset,
            run_iterate_batches=run_iterate_batches,
        )

    one = "one document"
    return [
        entry("no-eos", "documents do not end in <eos>", one),
        entry("two-eos", "documents end in two <eos>", one),
        entry("eos-first", "<eos> stands before a document instead of after it", one),
        entry("bos-for-eos", "documents end in <bos>", one),
        entry("no-bos", "the tokenizer is told to leave out its special tokens, so that <bos> is missing", one),
        entry("newline-kept", "the line end at the end of the template's file is kept", one),
        entry("no-template", "prompt and response are joined without the template", one),
        entry("response-only", "only responses are packed", one),
        entry("fields-swapped", "prompt and response have changed places in the template", one),
        entry("labels-not-shifted", "labels are the inputs themselves", "the ids 1, 2, 3 with seq_length 2"),
        entry("overlapping", "pieces begin at every token instead of after one another", "the ids 1 to 5 with seq_length 2"),
        entry("label-dropped", "pieces have seq_length + 1 tokens and do not share the border, so that one token in each is never an input", "the ids 1 to 5 with seq_length 2"),
        entry("not-packed", "each document is cut to seq_length, and short ones are left out", "two documents in one piece"),
        entry("one-item-more", "tokens // seq_length items are made, the last of which has no last label of its own", "4 tokens with seq_length 2"),
        entry("one-item-less", "the last whole item is left out", "5 tokens with seq_length 2"),
        entry("short-item", "a last, shorter item is kept", "6 tokens with seq_length 4"),
        entry("endless", "items past the end do not raise IndexError", "dataset[len(dataset)]"),
        entry("int32", "ids are int32", "the dtype of an item"),
        entry("never-shuffled", "shuffle=True does nothing", "twelve documents"),
        entry("always-shuffled", "documents are shuffled though it is not asked for", "twelve documents with shuffle=False"),
        entry("tokens-shuffled", "tokens are shuffled instead of documents", "twelve documents"),
        entry("last-batch-dropped", "a last, shorter batch is left out", "5 items in batches of 2"),
        entry("batches-shuffled", "batches are shuffled though it is not asked for", "shuffle=False"),
    ]  # fmt: skip


def sequence(model: Any, ids: list[int]) -> Tensor:
    """Log-prob of each token after the first."""
    x = torch.tensor([ids])
    log_p = torch.log_softmax(model(x[:, :-1]).logits[0], dim=-1)
    return log_p.gather(-1, x[0, 1:, None])[:, 0]


def dpo(lm: Any, reference: Any, tokenizer: Any, beta: float, prompt: str, pair: tuple[str, str], how: str) -> Tensor:
    """The loss, right with `how` = ""."""
    ratios = []
    for response in pair[::-1] if how == "pair-swapped" else pair:
        ids = document(tokenizer, prompt, response, how)
        mine = sequence(lm, ids)
        theirs = sequence(reference, ids)
        if how != "reference-trained":
            theirs = theirs.detach()
        if how == "last-token":
            mine, theirs = mine[-1:], theirs[-1:]
        if how == "probabilities":
            mine, theirs = mine.exp(), theirs.exp()
        first, second = (mine.mean(), theirs.mean()) if how == "mean" else (mine.sum(), theirs.sum())
        ratios.append(
            {"no-reference": first, "ratio-detached": (first - second).detach() + 0 * first}.get(how, first - second)
        )
    margin = ratios[0] - ratios[1]
    if how == "no-logarithm":
        return -torch.sigmoid(beta * margin)
    if how == "linear":
        return -beta * margin
    if how == "unstable":
        return -(1 / (1 + torch.exp(-beta * margin))).log()
    if how == "beta-outside":
        return -beta * torch.nn.functional.logsigmoid(margin)
    if how == "beta-inverse":
        return -torch.nn.functional.logsigmoid(margin / beta)
    if how == "hinge":
        return torch.relu(1 - beta * margin)
    found = -torch.nn.functional.logsigmoid(margin if how == "no-beta" else beta * margin)
    return {"sign": -found, "not-scalar": found[None], "detached": found.detach()}.get(how, found)


def _dpo() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def run(
            lm: Any, lm_ref: Any, tokenizer: Any, beta: float, prompt: str, response_chosen: str, response_rejected: str
        ) -> Tensor:
            return dpo(lm, lm_ref, tokenizer, beta, prompt, (response_chosen, response_rejected), how)

        return wrong(
            "dpo_loss", how, says, example, run_compute_per_instance_dpo_loss=run, compute_per_instance_dpo_loss=run
        )

    equal = "a model equal to its reference: log 2"
    return [
        entry("pair-swapped", "chosen and rejected, or policy and reference, have changed places", "a pair whose margin is known"),
        entry("no-reference", "the reference is not subtracted", equal),
        entry("no-beta", "beta is not used", "beta = 0.1"),
        entry("beta-outside", "beta stands outside of the sigmoid", "beta = 0.1"),
        entry("beta-inverse", "the margin is divided by beta", "beta = 0.1"),
        entry("mean", "log-probs are averaged over tokens instead of summed", "responses of one and eight words"),
        entry("last-token", "only the last token's log-prob is taken", "responses of three words"),
        entry("probabilities", "probabilities are summed instead of their logarithms", "responses of two words"),
        entry("no-logarithm", "the sigmoid is returned without its logarithm", equal),
        entry("linear", "the margin is returned without the sigmoid", equal),
        entry("hinge", "a hinge loss is returned", equal),
        entry("unstable", "1 / (1 + exp) is taken before the logarithm, which overflows", "a margin of -1000"),
        entry("sign", "the sign is turned round", equal),
        entry("no-eos", "<eos> is not appended to the response", "responses of different length"),
        entry("no-template", "prompt and response are joined without the template", "any pair"),
        entry("newline-kept", "the line end at the end of the template's file is kept before <eos>", "any pair"),
        entry("no-bos", "the tokenizer is told to leave out its special tokens", "any pair with a tokenizer that begins with <bos>"),
        entry("reference-trained", "the reference gets a gradient too", "backward, then the gradients of lm_ref"),
        entry("detached", "the loss carries no gradient", "backward"),
        entry("not-scalar", "the loss has one axis", "loss.shape"),
    ]  # fmt: skip


def _letters() -> list[Misconception]:
    def entry(name: str, says: str, example: str, read: Callable[[dict[str, Any], str], Any]) -> Misconception:
        return wrong(
            "parse_mmlu_response",
            name,
            says,
            example,
            run_parse_mmlu_response=lambda mmlu_example, model_output: read(mmlu_example, model_output),
        )

    def found(pattern: str, text: str, flags: int = 0) -> str | None:
        match = re.search(pattern, text, flags)
        return match[1] if match else None

    def right(text: str) -> str | None:
        named = found(r"answer\s+is\s*:?\s*[\s*(]*([A-D])(?![A-Za-z0-9])", text)
        return named or found(r"^\s*[*(]*([A-D])(?:[).:,*]|\s*$)", text)

    def option(example: dict[str, Any], text: str) -> str | None:
        letter = right(text)
        return letter or next(
            (name for name, option in zip("ABCD", example["options"], strict=True) if option in text), None
        )

    def last(text: str) -> str | None:
        letters = re.findall(r"\b([A-D])\b", text)
        return letters[-1] if letters else None

    said = r"answer\s+is\s*:?\s*[\s*(]*([A-D])"
    return [
        entry("any-capital", "the first capital A to D is taken, wherever it is", "A number is missing", lambda e, t: found(r"([A-D])", t)),
        entry("first-letter", "the first A to D that stands alone is taken", "A is wrong, the correct answer is B", lambda e, t: found(r"\b([A-D])\b", t)),
        entry("last-letter", "the last A to D that stands alone is taken", "The correct answer is A, not B", lambda e, t: last(t)),
        entry("word-begins", "a word that begins with A to D is taken for the letter", "The correct answer is Brazil", lambda e, t: found(said, t) or right(t)),
        entry("marks-refused", "brackets, colons and asterisks before the letter are not read", "The correct answer is (B)", lambda e, t: found(r"answer is ([A-D])(?![A-Za-z0-9])", t) or found(r"^\(?([A-D])(?:[).]|$)", t)),
        entry("sentence-only", "a letter without the sentence around it is not read", "B", lambda e, t: found(said + r"(?![A-Za-z0-9])", t)),
        entry("letter-only", "the sentence around a letter is not read", "The correct answer is B", lambda e, t: found(r"^\s*[*(]*([A-D])(?:[).:,*]|\s*$)", t)),
        entry("exact-period", "the letter must be followed by a period", "The correct answer is B", lambda e, t: found(said + r"\.", t) or found(r"^\(?([A-D])\.", t)),
        entry("guess", "A is returned where nothing is found", "I cannot say", lambda e, t: right(t) or "A"),
        entry("number-of-letter", "the number of the letter is returned instead of the letter", "B", lambda e, t: None if right(t) is None else "ABCD".index(str(right(t)))),
        entry("options-searched", "an option's text in the output counts as its letter", "The correct answer is 10", option),
        entry("lower-case", "the letter is returned in lower case", "B", lambda e, t: (right(t) or "").lower() or None),
        entry("case-ignored", "small letters are read too, so that the article `a` is an answer", "The correct answer is a large one", lambda e, t: (found(r"\b([A-D])\b", t, re.IGNORECASE) or "").upper() or None),
    ]  # fmt: skip


def _numbers() -> list[Misconception]:
    def entry(name: str, says: str, example: str, read: Callable[[str], Any]) -> Misconception:
        return wrong(
            "parse_gsm8k_response",
            name,
            says,
            example,
            run_parse_gsm8k_response=lambda model_output: read(model_output),
        )

    number = r"(?<!\d)-?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\d+"

    def right(text: str, pattern: str = number, which: int = -1) -> str | None:
        found = re.findall(pattern, text)
        return found[which].replace(",", "").replace("$", "") if found else None

    def kept(text: str) -> str | None:
        found = re.findall(number, text)
        return found[-1].replace("$", "") if found else None

    def last_word(text: str) -> str | None:
        return text.split()[-1] if any(c.isdigit() for c in text) else None

    return [
        entry("first", "the first number is taken", "2 and 3 make 5", lambda t: right(t, which=0)),
        entry("digits", "a number is a run of digits: commas and points cut it", "1,234", lambda t: right(t, r"\d+")),
        entry("commas-kept", "commas between thousands are kept", "1,234", kept),
        entry("commas-cut", "a comma ends a number", "1,234", lambda t: right(t, r"(?<!\d)-?\d+(?:\.\d+)?|\d+(?:\.\d+)?")),
        entry("period-kept", "the period of the sentence is taken for a part of the number", "It is 72.", lambda t: right(t, r"(?<!\d)-?\$?[\d][\d,]*\.?\d*|\d+")),
        entry("decimals-lost", "what stands after the point is left out", "3.50", lambda t: (right(t) or "").split(".")[0] or None),
        entry("minus-lost", "a minus sign is left out", "-5", lambda t: (right(t) or "").lstrip("-") or None),
        entry("minus-anywhere", "a minus sign between two numbers is taken for the sign of the second", "24-12", lambda t: right(t, r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")),
        entry("currency-kept", "the currency sign is kept", "$5", lambda t: (re.findall(number, t) or [None])[-1] and re.findall(number, t)[-1].replace(",", "")),
        entry("after-answer", "only a number after `answer is` is read", "She has 5", lambda t: right(t) if "answer is" in t else None),
        entry("integer", "an int is returned instead of a str", "72", lambda t: None if right(t) is None else int(float(str(right(t))))),
        entry("float", "a float's text is returned", "72", lambda t: None if right(t) is None else str(float(str(right(t))))),
        entry("zero", "0 is returned where there is no number", "no number", lambda t: right(t) or "0"),
        entry("last-word", "the last word is taken", "72 clips", last_word),
    ]  # fmt: skip
