"""Profiles, named ranges and flame graphs: names, counts and nesting that are known beforehand; no time is asserted."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from cs336_basics import model as basics_model
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_systems.flame_graph import flame_graph_svg, read_collapsed, write_collapsed
from cs336_systems.named_ranges import ATTENTION_RANGES, annotated_attention, attention_in_named_ranges
from cs336_systems.profiling import (
    collapsed_stacks,
    function_rows,
    function_table,
    profile_calls,
    profile_step,
    write_profile,
)

CONFIG = ModelConfig(vocab_size=31, context_length=8, d_model=16, num_layers=2, num_heads=2, d_ff=32)


@pytest.fixture(scope="module")
def profiled():
    """Two steps of the tiny model."""
    return profile_step(CONFIG, batch_size=2, warmups=1, repeats=2, device="cpu")


def test_the_table_has_the_named_ranges(profiled):
    rows = {row.name: row for row in function_rows(profiled)}
    expected = {"forward_pass": 2, "backward_pass": 2, "optimizer": 2} | dict.fromkeys(ATTENTION_RANGES, 2 * 2)
    assert {name: rows[name].calls for name in expected} == expected
    assert rows["aten::mm"].calls == 2 * 3 * (7 * 2 + 1)  # each product, its two gradients
    table = function_table(list(rows.values()), limit=3)
    assert len(table.rows) == 3 and table.headers[:2] == ["function", "calls"]


def test_own_times_and_totals_fit_together(profiled):
    rows = function_rows(profiled)
    assert [row.own_us for row in rows] == sorted((row.own_us for row in rows), reverse=True)
    assert all(row.total_us >= row.own_us - 1e-6 for row in rows)
    stacks = collapsed_stacks(profiled)
    forward = sum(value for stack, value in stacks.items() if stack.split(";")[0] == "forward_pass")
    total = next(row.total_us for row in rows if row.name == "forward_pass")
    assert forward == pytest.approx(total, rel=1e-3)


def test_stacks_nest_as_the_program_does(profiled):
    stacks = collapsed_stacks(profiled)
    assert {stack.split(";")[0] for stack in stacks} == {"forward_pass", "backward_pass", "optimizer"}
    assert any(stack.startswith("forward_pass;attention/softmax;") for stack in stacks)
    assert not any(stack.startswith("backward_pass;attention") for stack in stacks)


def test_python_frames_appear_on_request():
    profiler = profile_step(CONFIG, batch_size=1, mode="forward", warmups=0, device="cpu", stacks=True)
    frames = [frame for stack in collapsed_stacks(profiler) for frame in stack.split(";")]
    assert any("cs336_basics/model.py" in frame and "hidden_states" in frame for frame in frames)
    assert not any(frame.startswith("torch/") for frame in frames)


def test_the_files_of_a_profile(profiled, tmp_path):
    text = write_profile(profiled, tmp_path, about="Tiny.").read_text()
    assert all(name in text for name in (*ATTENTION_RANGES, "backward\\_pass", "optimizer"))
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {"forward_pass", "backward_pass", "optimizer", *ATTENTION_RANGES} <= names
    stacks = read_collapsed((tmp_path / "stacks.txt").read_text())
    assert stacks == {stack: round(value) for stack, value in collapsed_stacks(profiled).items()}
    ElementTree.parse(tmp_path / "flame_graph.svg")
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_annotated_attention_is_the_same_function_and_goes_away():
    torch.manual_seed(0)
    model, ids = TransformerLM(CONFIG), torch.randint(31, (2, 8))
    before, plain = basics_model.scaled_dot_product_attention, model(ids)
    with pytest.raises(RuntimeError, match="stop"), annotated_attention():
        assert basics_model.scaled_dot_product_attention is attention_in_named_ranges
        torch.testing.assert_close(model(ids), plain)
        raise RuntimeError("stop")
    assert basics_model.scaled_dot_product_attention is before


def test_annotated_attention_equals_torchs():
    q, k, v = torch.randn(3, 2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attention_in_named_ranges(q, k, v, mask), expected)


def test_bad_counts_are_refused():
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        profile_calls(lambda: None, device=torch.device("cpu"), repeats=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        profile_step(CONFIG, batch_size=0, device="cpu")


STACKS = {"a;b": 30.0, "a;c": 10.0, "a": 10.0, "d<&>": 50.0}


def boxes(svg: str) -> dict[str, tuple[float, float, float]]:
    """Title to (x, y, width)."""
    found = {}
    for group in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}g"):
        title, rect = group[0].text, group[1].attrib
        found[title] = (float(rect["x"]), float(rect["y"]), float(rect["width"]))
    return found


def test_boxes_are_as_wide_as_their_time():
    found = boxes(flame_graph_svg(STACKS, title="t"))
    widths = {title: width / found["all: 100 us, 100.0%"][2] for title, (_, _, width) in found.items()}
    expected = {"all: 100 us, 100.0%": 1, "a: 50 us, 50.0%": 0.5, "b: 30 us, 30.0%": 0.3, "c: 10 us, 10.0%": 0.1,
                "d<&>: 50 us, 50.0%": 0.5}  # fmt: skip
    assert widths == pytest.approx(expected, abs=1e-4)
    x, y, width = found["a: 50 us, 50.0%"]
    for child in ("b: 30 us, 30.0%", "c: 10 us, 10.0%"):
        assert found[child][1] < y and x <= found[child][0] and found[child][0] + found[child][2] <= x + width + 0.01


def test_a_flame_graph_is_one_file_without_scripts():
    svg = flame_graph_svg(STACKS, title="<t>")
    assert svg == flame_graph_svg(dict(reversed(STACKS.items())), title="<t>")
    assert "script" not in svg and "href" not in svg and svg.isascii()


def test_collapsed_stacks_are_read_back():
    assert read_collapsed("a;b c 3\n\na;b c 4\nx 1\n") == {"a;b c": 7, "x": 1}
    assert read_collapsed(write_collapsed(STACKS)) == STACKS
    with pytest.raises(ValueError, match="line 2 is not"):
        read_collapsed("a 1\nb;c x\n")
    with pytest.raises(ValueError, match="at least one stack"):
        flame_graph_svg({}, title="t")
    with pytest.raises(ValueError, match="must not be negative; got -1"):
        flame_graph_svg({"a": -1.0}, title="t")
