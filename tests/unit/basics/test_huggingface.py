"""Hugging Face folders against transformers: logits, tensors bit by bit, published sizes, and everything refused.

The oracle is transformers' own Llama and Qwen2 with random weights, saved and loaded by transformers.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cs336_basics.huggingface.config import config_from_huggingface, config_to_huggingface
from cs336_basics.huggingface.folder import huggingface_name, read_huggingface_folder, write_huggingface_folder
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.config import load_config
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_basics.training import save_model
from cs336_basics.training_config import TrainConfig
from cs336_basics.variants.configs import RopeScaling
from cs336_course import cli

CONFIGS = Path(__file__).parents[3] / "cs336_basics" / "configs"
SMALL = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-3,
}  # fmt: skip
LLAMA = {"model_type": "llama", **SMALL}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 500.0}
SHAPES = {
    "llama, all heads": LLAMA,
    "llama, grouped, wide heads, tied": LLAMA | {"num_key_value_heads": 2, "head_dim": 12, "tie_word_embeddings": True},
    "llama, one key head, linear scaling": LLAMA
    | {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 70.0}},
    "qwen, tied": {"model_type": "qwen2", **SMALL, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "qwen, yarn": {"model_type": "qwen2", **SMALL, "num_key_value_heads": 2, "rope_parameters": YARN},
}


@pytest.fixture(scope="module")
def transformers(require):
    """The package transformers, silent."""
    require("transformers")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def their_model(transformers, values, *, dtype=torch.float32, seed=0):
    """Their model with weights large enough that positions, norms and biases matter."""
    kind = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[values["model_type"]]
    config = kind(**{key: value for key, value in values.items() if key != "model_type"}, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.3 * noise if "norm" in name else 0.3 * noise)
    return model


def their_logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def some_ids(vocab_size=97, length=50):
    return torch.randint(vocab_size, (3, length), generator=torch.Generator().manual_seed(1))


def our_logits(model, ids):
    with torch.no_grad():
        return model.eval()(ids)


def assert_same_logits(actual, expected):
    """Equal to 1e-5 of the largest logit, which float32 sums in another order can differ by; a wrong pair, bias or
    angle shows as differences of order 1."""
    largest = expected.abs().max().item()
    assert largest > 1  # not a comparison of zeros
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * largest)


def raw_tensors(folder):
    """All tensors of a folder's safetensors files, read by their library without ours."""
    from safetensors.torch import load_file

    tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def same_bits(a, b):
    """Equal names, types and bytes."""
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)), name


@pytest.mark.parametrize("name", SHAPES)
def test_reading_gives_their_logits(transformers, tmp_path, name):
    theirs = their_model(transformers, SHAPES[name])
    theirs.save_pretrained(tmp_path)
    expected, actual = their_logits(theirs, some_ids()), our_logits(read_huggingface_folder(tmp_path), some_ids())
    assert_same_logits(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHAPES)
def test_read_and_written_tensors_are_the_same_bits(transformers, tmp_path, name, dtype):
    theirs = their_model(transformers, SHAPES[name], dtype=dtype)
    theirs.save_pretrained(tmp_path / "a")
    write_huggingface_folder(read_huggingface_folder(tmp_path / "a"), tmp_path / "b")
    same_bits(raw_tensors(tmp_path / "b"), raw_tensors(tmp_path / "a"))
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "b", dtype=dtype, attn_implementation="eager"
    ).eval()
    assert type(again) is type(theirs)
    assert torch.equal(their_logits(again, some_ids()), their_logits(theirs, some_ids()))


def test_shards_are_read_and_written(transformers, tmp_path):
    theirs = their_model(transformers, SHAPES["qwen, yarn"])
    theirs.save_pretrained(tmp_path / "a", max_shard_size="30KB")
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 2
    model = read_huggingface_folder(tmp_path / "a")
    assert_same_logits(our_logits(model, some_ids()), their_logits(theirs, some_ids()))
    write_huggingface_folder(model, tmp_path / "b", max_shard_bytes=40_000)
    files = sorted((tmp_path / "b").glob("*.safetensors"))
    assert len(files) > 2
    for file in files:  # a file may be larger only by its header, or if it holds one tensor
        assert file.stat().st_size < 44_000
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.numel() * 4 for p in theirs.parameters())
    same_bits(raw_tensors(tmp_path / "b"), raw_tensors(tmp_path / "a"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b", attn_implementation="eager").eval()
    assert torch.equal(their_logits(again, some_ids()), their_logits(theirs, some_ids()))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_model_of_ours_with_interleaved_pairs_gives_the_same_logits_there(transformers, tmp_path, tied, biased):
    config = ModelConfig(
        vocab_size=97, context_length=64, d_model=48, num_layers=2, num_heads=6, num_kv_heads=2, d_ff=80,
        qkv_bias=biased, tie_embeddings=tied, rope_theta=300.0, norm_eps=1e-4, attn_pdrop=0.1, residual_pdrop=0.1,
        attention="blocked", rope_scaling=RopeScaling("yarn", factor=2.0, original_context_length=32),
    )  # fmt: skip
    torch.manual_seed(5)
    model = TransformerLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    assert config.rope_pairs == "interleaved"
    write_huggingface_folder(model, tmp_path, facts={"eos_token_id": 7})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert type(theirs).__name__ == ("Qwen2ForCausalLM" if biased else "LlamaForCausalLM")
    assert theirs.config.eos_token_id == 7
    expected = our_logits(model, some_ids())
    assert_same_logits(their_logits(theirs, some_ids()), expected)
    back = read_huggingface_folder(tmp_path)
    assert back.config.rope_pairs == "halves"
    assert_same_logits(our_logits(back, some_ids()), expected)
    for name, weight in model.state_dict().items():  # the same numbers, rows of queries and keys in another order
        ours, theirs_ = weight.flatten().sort()[0], back.state_dict()[name].flatten().sort()[0]
        assert torch.equal(ours, theirs_), name


def test_all_names_are_theirs(transformers):
    """Our names of a model's weights, translated, are the names transformers gives its own."""
    for values in SHAPES.values():
        ours = TransformerLM(config_from_huggingface(values), device="meta")
        theirs = their_model(transformers, values)
        assert {huggingface_name(name) for name, _ in ours.named_parameters()} == {
            name for name, _ in theirs.named_parameters()
        }


PUBLISHED = {  # name: (weights as published with the models, their config)
    "qwen2.5-0.5b": (494_032_768, {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": True, "use_sliding_window": False,
        "sliding_window": 32768, "max_window_layers": 24,
    }),
    "qwen2.5-1.5b": (1_543_714_304, {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960,
        "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": True,
        "use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28,
    }),
    "llama-2-7b": (6_738_415_616, {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_scaling": None, "pretraining_tp": 1, "tie_word_embeddings": False,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes(transformers, name):
    weights, values = PUBLISHED[name]
    shipped = load_config(TrainConfig, CONFIGS / f"{name}.toml").model
    assert config_from_huggingface(values) == shipped
    assert TransformerLM(shipped, device="meta").get_num_params() == weights
    kind = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[values["model_type"]]
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(
            kind(**{k: values[k] for k in values if k != "model_type"})
        )
    assert sum(p.numel() for p in theirs.parameters()) == weights


# Refusals


def write_small(folder, **changes):
    """A folder with a small Llama of ours, its config.json changed."""
    torch.manual_seed(0)
    write_huggingface_folder(TransformerLM(config_from_huggingface(LLAMA)), folder)
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v != "drop"}))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mixtral"}, "model_type 'mixtral' is not supported"),
        ({"model_type": "qwen2_moe"}, "model_type 'qwen2_moe'"),
        ({"hidden_size": "drop"}, "lacks hidden_size"),
        ({"hidden_size": "48"}, "hidden_size='48'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"use_sliding_window": True, "sliding_window": 16}, "sliding_window of 16"),
        ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 16}, "sliding_window of 16"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "'llama3' is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}}, "mscale"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "truncate"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"num_key_value_heads": 4}, "num_kv_heads must divide num_heads"),
        ({"vocab_size": 100}, r"shape \(97, 48\), but config.json makes it \(100, 48\)"),
        ({"num_hidden_layers": 3}, "9 missing"),
        ({"num_hidden_layers": 1}, "9 unexpected"),
        ({"model_type": "qwen2"}, "6 missing"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_ours_cannot_be_is_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        read_huggingface_folder(write_small(tmp_path, **changes))


def test_a_window_as_long_as_the_context_is_no_window(tmp_path):
    model, plain = (
        read_huggingface_folder(write_small(tmp_path / str(len(changes)), **changes))
        for changes in ({"use_sliding_window": True, "sliding_window": 64}, {})
    )
    ids = torch.arange(40).unsqueeze(0)
    assert model.config == plain.config and torch.equal(model(ids), plain(ids))


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        read_huggingface_folder(tmp_path)
    folder = write_small(tmp_path / "a")
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        read_huggingface_folder(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor"):
        read_huggingface_folder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_huggingface_folder(folder)


def test_an_index_that_lies_is_refused(tmp_path):
    torch.manual_seed(0)
    write_huggingface_folder(TransformerLM(config_from_huggingface(LLAMA)), tmp_path, max_shard_bytes=40_000)
    index = tmp_path / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    first, second = sorted(set(values["weight_map"].values()))[:2]
    moved = {name: second if file == first else file for name, file in values["weight_map"].items()}
    index.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(ValueError, match="the index disagree about"):
        read_huggingface_folder(tmp_path)
    index.write_text(json.dumps({"weight_map": {name: f"../{file}" for name, file in moved.items()}}))
    with pytest.raises(ValueError, match="no weight_map"):
        read_huggingface_folder(tmp_path)
    index.write_text(json.dumps(values))
    (tmp_path / first).unlink()
    with pytest.raises(FileNotFoundError, match=first):
        read_huggingface_folder(tmp_path)


def rewrite(folder, change):
    """Change the tensors of a single-file folder."""
    from safetensors.torch import save_file

    tensors = raw_tensors(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_other_types_of_weights_are_refused(tmp_path):
    folder = write_small(tmp_path)
    rewrite(folder, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].half()}))
    with pytest.raises(ValueError, match="all be of one type .* F16, F32"):
        read_huggingface_folder(folder)
    rewrite(folder, lambda t: t.update({name: tensor.double() for name, tensor in t.items()}))
    with pytest.raises(ValueError, match="got F64"):
        read_huggingface_folder(folder)


def test_a_stored_tied_head_must_equal_the_embeddings_and_old_buffers_do_not_matter(tmp_path):
    folder = write_small(tmp_path, tie_word_embeddings=True)
    with pytest.raises(ValueError, match="ties lm_head to the embeddings, but the two tensors differ"):
        read_huggingface_folder(folder)
    table = raw_tensors(folder)["model.embed_tokens.weight"]
    rewrite(folder, lambda t: t.update({"lm_head.weight": table.clone()}))
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    model = read_huggingface_folder(folder)
    assert model.lm_head.weight is model.token_embeddings.weight and torch.equal(model.lm_head.weight, table)


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "post"}, {"norm": "parallel"}, {"positions": "none"}, {"positions": "learned"}, {"ffn": "silu"},
        {"qk_norm": True}, {"logit_softcap": 30.0}, {"norm_type": "layernorm"}, {"attention_window": 8},
        {"attention_scale": 2.0}, {"value_residual": True}, {"embedding_norm": True},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_models_that_are_no_llama_are_not_exported(tmp_path, change):
    config = ModelConfig(vocab_size=50, context_length=16, d_model=24, num_layers=1, num_heads=2, **change)
    with pytest.raises(ValueError, match="cannot be exported"):
        write_huggingface_folder(TransformerLM(config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_folder_is_not_overwritten(tmp_path):
    folder = write_small(tmp_path)
    with pytest.raises(ValueError, match="not an empty folder"):
        write_small(folder)


def test_a_shorter_context(tmp_path):
    folder = write_small(tmp_path)
    model = read_huggingface_folder(folder, context_length=20)
    assert model.config.context_length == 20
    ids = some_ids(length=20)
    assert torch.equal(our_logits(model, ids), our_logits(read_huggingface_folder(folder), ids))
    with pytest.raises(ValueError, match="more than max_position_embeddings=64"):
        read_huggingface_folder(folder, context_length=65)


@pytest.mark.parametrize("name", SHAPES)
def test_configs_survive_the_round_trip(name):
    config = config_from_huggingface(SHAPES[name])
    assert config_from_huggingface(config_to_huggingface(config)) == config
    other = replace(config, rope_theta=123.0)
    assert config_from_huggingface(config_to_huggingface(other)).rope_theta == 123.0


# Commands


def run(capsys, *arguments):
    """JSON that a command prints."""
    code = cli.main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_import_and_export_give_back_the_same_folder(transformers, tmp_path, capsys, dtype):
    pytest.importorskip("tyro")
    theirs = their_model(transformers, SHAPES["qwen, tied"], dtype=dtype)
    theirs.config.eos_token_id = 5
    theirs.save_pretrained(tmp_path / "a")
    imported = run(capsys, "model", "import", tmp_path / "a", "--out", tmp_path / "run")
    assert imported["parameters"] == sum(p.numel() for p in theirs.parameters())
    loaded = TransformerLM.from_pretrained(tmp_path / "run")
    if dtype is torch.float32:
        expected = their_logits(theirs, some_ids())
        assert_same_logits(our_logits(loaded, some_ids()), expected)
    exported = run(capsys, "model", "export", tmp_path / "run", "--out", tmp_path / "b")
    assert (exported["eos_token_id"], exported["dtype"]) == (5, str(dtype))
    same_bits(raw_tensors(tmp_path / "b"), raw_tensors(tmp_path / "a"))
    assert cli.main(["model", "import", str(tmp_path / "a"), "--out", str(tmp_path / "run")]) == 1
    assert "not an empty folder" in capsys.readouterr().err


def test_a_trained_model_of_ours_is_exported_with_its_tokenizer(transformers, corpus, tmp_path, capsys):
    pytest.importorskip("tyro")
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(vocab_size=257, context_length=16, d_model=16, num_layers=1, num_heads=2))
    (tmp_path / "run").mkdir()
    save_model(model, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"tokenizer": str(corpus / "tokenizer")}))
    exported = run(capsys, "model", "export", tmp_path / "run", "--out", tmp_path / "out", "--dtype", "float16")
    assert exported["eos_token_id"] == exported["bos_token_id"] == 256
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["eos_token_id"] == 256 and values["torch_dtype"] == "float16"
    stored = raw_tensors(tmp_path / "out")["model.embed_tokens.weight"]
    assert torch.equal(stored, model.token_embeddings.weight.half())
    text = "the dog <|endoftext|> sat\n"
    ids = Tokenizer.load(corpus / "tokenizer").encode(text)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(text)["input_ids"] == ids
    imported = run(capsys, "model", "import", tmp_path / "out", "--out", tmp_path / "back")
    assert Tokenizer.load(imported["tokenizer"]).encode(text) == ids


def test_import_refuses_in_one_line(tmp_path, capsys):
    pytest.importorskip("tyro")
    folder = write_small(tmp_path / "a", model_type="mixtral")
    assert cli.main(["model", "import", str(folder), "--out", str(tmp_path / "run")]) == 1
    assert "error: model_type 'mixtral' is not supported" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
