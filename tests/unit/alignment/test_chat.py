"""Chat without a browser: replies equal plain generation, the tool loop, what fits the context, terminal, HTTP."""

from __future__ import annotations

import http.client
import io
import json
import threading

import pytest
import torch
from rich.console import Console

from cs336_alignment.chat import cli, terminal
from cs336_alignment.chat.engine_thread import EngineThread
from cs336_alignment.chat.replies import ChatModel, End, Note, Token
from cs336_alignment.chat.styles import Style
from cs336_alignment.chat.web import make_app, read_params
from cs336_basics.generation import generate
from cs336_basics.training import save_model
from cs336_systems.inference.sampling import SamplingParams
from tests.unit.alignment.chat_doubles import ScriptedEngine, byte_tokenizer, tiny_chat, tiny_model

GREEDY = SamplingParams(max_tokens=12, temperature=0.0)
HELLO = [{"role": "user", "content": "hello"}]


def scripted(script: list[str]) -> tuple[ChatModel, ScriptedEngine]:
    """A chat model that writes these texts, one per request; special tokens by name."""
    tokenizer = byte_tokenizer()
    chat = ChatModel(tiny_model(tokenizer), tokenizer)
    chat.engine.close()
    engine = ScriptedEngine([tokenizer.encode(line) for line in script])
    chat.engine = EngineThread(engine)  # type: ignore[arg-type]
    return chat, engine


def words(events) -> tuple[str, str, str]:
    """(what the model wrote, what was given to it, why it ended)."""
    events = list(events)
    tokens = [event for event in events if isinstance(event, Token)]
    assert all((token.probability is not None) == bool(token.mask) for token in tokens)
    written = "".join(token.text for token in tokens if token.mask)
    return written, "".join(token.text for token in tokens if not token.mask), events[-1].reason


@pytest.mark.parametrize("chat_tokens", [True, False])
def test_a_greedy_reply_is_plain_generation(chat_tokens):
    with tiny_chat(chat=chat_tokens) as chat:
        prompt = "<|bos|><|user_start|>hello<|user_end|><|assistant_start|>" if chat_tokens else "hello"
        ids = chat.tokenizer.encode(prompt)
        expected = generate(chat.model, torch.tensor([ids]), 12, temperature=0.0, stop_ids=chat.style.stop_ids)[0]
        tokens = [event for event in chat.reply(HELLO, GREEDY) if isinstance(event, Token)]
        assert [token.id for token in tokens] == expected
        logits = chat.model(torch.tensor([ids + expected]))[0].detach().double().softmax(dim=-1)
        for k, token in enumerate(tokens):
            assert token.probability == pytest.approx(float(logits[len(ids) + k - 1, token.id]), rel=1e-4)


def test_replies_at_the_same_time_are_those_of_each_alone():
    params = [SamplingParams(max_tokens=20, temperature=1.0, seed=seed) for seed in range(4)]
    with tiny_chat() as chat:
        alone = [[e.id for e in chat.reply(HELLO, p) if isinstance(e, Token)] for p in params]
        found: dict[int, list[int]] = {}

        def run(k: int) -> None:
            found[k] = [e.id for e in chat.reply(HELLO, params[k]) if isinstance(e, Token)]

        threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert [found[k] for k in range(4)] == alone
        assert chat.engine.running == 0


def test_closing_a_reply_cancels_it():
    with tiny_chat() as chat:
        events = chat.reply(HELLO, SamplingParams(max_tokens=200, temperature=1.0))
        next(events)
        assert chat.engine.running == 1
        events.close()
        assert chat.engine.running == 0
        assert words(chat.reply(HELLO, GREEDY))[2] in ("length", "stop")


def test_the_calculator_answers_within_the_reply():
    chat, engine = scripted(["so <|python_start|>48/2<|python_end|>", "is it<|assistant_end|>"])
    with chat:
        written, given, reason = words(chat.reply(HELLO, SamplingParams(max_tokens=100)))
    assert written == "so <|python_start|>48/2<|python_end|>is it"
    assert given == "<|output_start|>24<|output_end|>"
    assert reason == "stop"
    prompt = "<|bos|><|user_start|>hello<|user_end|><|assistant_start|>"
    assert chat.tokenizer.decode(engine.prompts[0]) == prompt
    call = "so <|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>"
    assert chat.tokenizer.decode(engine.prompts[1]) == prompt + call
    assert engine.params[1].max_tokens == 100 - len("so 48/2") - 2  # a token per byte and special token


def test_hostile_tool_calls_get_an_error_and_end():
    call = "<|python_start|>__import__('os')<|python_end|>"
    chat, engine = scripted([call] * 20)
    with chat:
        _, given, reason = words(chat.reply(HELLO, SamplingParams(max_tokens=10_000)))
    assert given.count("error: ") == len(engine.prompts) - 1 < 9  # no endless loop: context or number of calls
    assert reason in ("stop", "context")


def test_pieces_are_whole_characters():
    chat, _ = scripted(["a\u00e9\u4e2d"])
    with chat:
        tokens = [event for event in chat.reply(HELLO, GREEDY) if isinstance(event, Token)]
    assert [token.piece for token in tokens] == ["a", "", "\u00e9", "", "", "\u4e2d"]


def test_old_turns_leave_when_the_context_is_full():
    style = Style("chat", byte_tokenizer(), 100)
    turns = []
    for letter in "abc":
        turns += [{"role": "user", "content": letter * 20}, {"role": "assistant", "content": letter * 20}]
    prompt = style.prompt([*turns, {"role": "user", "content": "d"}], reserve=10)
    expected = "<|bos|><|user_start|>" + "c" * 20 + "<|user_end|><|assistant_start|>" + "c" * 20
    expected += "<|assistant_end|><|user_start|>d<|user_end|><|assistant_start|>"
    assert style.tokenizer.decode(prompt.ids) == expected
    assert prompt.note == "the first 4 messages are outside the model's context"
    system = {"role": "system", "content": "brief"}
    kept = style.prompt([system, *turns, {"role": "user", "content": "d"}], reserve=10)
    assert style.tokenizer.decode(kept.ids) == expected.replace("c", "brief\n\nc", 1)
    with pytest.raises(ValueError, match="has 104 tokens; the model has room for 90"):
        style.prompt([{"role": "user", "content": "x" * 100}], reserve=10)


def test_text_and_question_styles():
    tokenizer = byte_tokenizer(chat=False)
    turns = [
        {"role": "user", "content": "Once "},
        {"role": "assistant", "content": "upon"},
        {"role": "user", "content": " a"},
    ]
    assert tokenizer.decode(Style("auto", tokenizer, 100).prompt(turns, reserve=1).ids) == "Once upon a"
    assert tokenizer.decode(Style("question", tokenizer, 100).prompt(turns, reserve=1).ids) == "a\n"
    assert tokenizer.decode(Style("question_only", tokenizer, 500).prompt(turns, reserve=1).ids).startswith("a Please")
    text = Style("text", tokenizer, 40).prompt([{"role": "user", "content": "x" * 45 + "y"}], reserve=10)
    assert tokenizer.decode(text.ids) == "x" * 29 + "y"
    assert text.note == "the first 16 tokens of the text are outside the model's context"


def test_refusals_of_styles(tmp_path):
    plain = byte_tokenizer(chat=False)
    with pytest.raises(ValueError, match="lacks the chat tokens"):
        Style("chat", plain, 100)
    with pytest.raises(FileNotFoundError, match="no prompt 'nonsense'"):
        Style("nonsense", plain, 100)
    (tmp_path / "odd.prompt").write_text("{question} {nobody}")
    with pytest.raises(ValueError, match="nobody"):
        Style(str(tmp_path / "odd.prompt"), plain, 100)
    with pytest.raises(ValueError, match="last message must be the user's"):
        Style("text", plain, 100).prompt([*HELLO, {"role": "assistant", "content": "x"}], reserve=1)


def test_token_view_has_masks_and_probabilities():
    with tiny_chat() as chat:
        messages = [*HELLO, {"role": "assistant", "content": "yes"}]
        views = chat.token_view(messages)
        ids, mask = chat.style.chat.render_conversation({"messages": messages})
        tokens = [token for view in views for token in view]
        assert [token.id for token in tokens] == ids and [token.mask for token in tokens] == mask
        assert [len(view) for view in views] == [3 + 5, 2 + 3]
        expected = chat.model(torch.tensor([ids]))[0].detach().double().softmax(dim=-1)
        assert tokens[0].probability is None
        for k in range(1, len(ids)):
            assert tokens[k].probability == pytest.approx(float(expected[k - 1, ids[k]]), rel=1e-4)


def test_the_terminal_asks_and_remembers(monkeypatch, capsys):
    chat, engine = scripted(["first<|assistant_end|>", "second<|assistant_end|>", "third<|assistant_end|>"])
    lines = iter(["hello", "/regenerate", "/set temperature 0.5", "/set temperature x", "again", "/nonsense", "/quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with chat:
        terminal.talk(chat, SamplingParams(max_tokens=50, seed=7))
    shown = capsys.readouterr().out
    assert "first" in shown and "second" in shown and "third" in shown
    assert "temperature needs a number" in shown and "unknown command /nonsense" in shown and "/regenerate" in shown
    prompts = [chat.tokenizer.decode(prompt) for prompt in engine.prompts]
    assert prompts[0] == prompts[1] == "<|bos|><|user_start|>hello<|user_end|><|assistant_start|>"
    assert prompts[2].startswith(prompts[1] + "second<|assistant_end|><|user_start|>again")
    assert [params.seed for params in engine.params] == [7, 8, 9]
    assert engine.params[2].temperature == 0.5


def test_terminal_token_text_shows_what_is_learnt():
    tokens = [Token(1, "hi\n", "hi\n", "text", 1, 0.99), Token(2, "24", "24", "python_output", 0, None)]
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(terminal.token_text(tokens))
    shown = console.file.getvalue()
    assert "hi\\n" in shown and "24" in shown and "58;154;82" in shown  # the shade of the expected, #3a9a52


def test_chat_command_answers_once(tmp_path, capsys, monkeypatch):
    tokenizer = byte_tokenizer()
    model = tiny_model(tokenizer)
    save_model(model, tmp_path)
    tokenizer.save(tmp_path / "tokenizer")
    cli.chat([str(tmp_path), "--prompt", "hello", "--temperature", "0", "--max-tokens", "5", "--tokens"])
    ids = tokenizer.encode("<|bos|><|user_start|>hello<|user_end|><|assistant_start|>")
    expected = generate(model, torch.tensor([ids]), 5, temperature=0.0)[0]
    shown = capsys.readouterr().out
    for token_id in expected:
        assert tokenizer.vocab[token_id].decode(errors="replace").replace("\n", "\\n") in shown


@pytest.fixture(scope="module")
def address():
    """Host and port of a page with a tiny model."""
    pytest.importorskip("uvicorn")
    from tests.unit.alignment.page_server import running_page

    with tiny_chat() as chat, running_page(chat) as port:
        yield "127.0.0.1", port


def call(address, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of one request."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        return response.status, response.read().decode(), {k.lower(): v for k, v in response.getheaders()}
    finally:
        connection.close()


def test_http_streams_events(address):
    status, text, headers = call(address, "POST", "/api/reply", {"messages": HELLO, "temperature": 0, "max_tokens": 4})
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    names = [line.split(": ")[1] for line in text.splitlines() if line.startswith("event")]
    assert names == ["token"] * 4 + ["end"]
    assert json.loads(text.strip().splitlines()[-1].removeprefix("data: ")) == {"reason": "length"}


def test_http_serves_one_page_that_loads_nothing_from_elsewhere(address):
    for path in ("/", "/page.css", "/page.js"):
        status, text, headers = call(address, "GET", path)
        assert status == 200 and "default-src 'none'" in headers["content-security-policy"]
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
    assert call(address, "GET", "/../cli.py")[0] == 404


@pytest.mark.parametrize(
    "body, words",
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        ([], "list of messages"),
        ({"messages": []}, "at least one message"),
        ({"messages": HELLO * 2}, "must be by assistant"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, "write a shorter one"),
        ({"messages": [{"role": "user", "content": "x" * 300_000}]}, "at most 500 and 200,000"),
        ({"messages": HELLO * 501}, "at most 500"),
        ({"messages": HELLO, "temperature": -1}, "temperature must be"),
        ({"messages": HELLO, "temperature": "hot"}, "temperature must be a number"),
        ({"messages": HELLO, "top_p": 0}, "top_p must lie"),
        ({"messages": HELLO, "tempature": 1}, "unknown setting 'tempature'"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
    ],
)
def test_http_refuses_bad_requests_with_a_reason(address, body, words):
    status, text, _ = call(address, "POST", "/api/reply", body)
    assert status == 400 and words in json.loads(text)["error"]


def test_http_refuses_other_hosts_and_origins(address):
    assert call(address, "GET", "/", None, Host="evil.example")[0] == 403
    origin = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
    assert call(address, "POST", "/api/reply", {"messages": HELLO}, **origin)[0] == 403
    own = f"http://127.0.0.1:{address[1]}"
    assert call(address, "POST", "/api/tokens", {"messages": HELLO}, Origin=own)[0] == 200


def test_params_of_requests():
    assert read_params({"temperature": 0, "top_k": None, "seed": 3}) == SamplingParams(temperature=0, seed=3)
    with pytest.raises(ValueError, match="max_tokens must be a number"):
        read_params({"max_tokens": True})
    assert callable(make_app(None, hosts=frozenset()))  # type: ignore[arg-type]
    assert {Note, End, Token}
