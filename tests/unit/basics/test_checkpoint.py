"""Checkpoints: damage at every place, hostile files, full disks; nothing loaded or stored is harmed by a failure."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
import resource
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from cs336_basics.checkpoint import load_checkpoint, load_state, save_checkpoint, save_state
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.optimizer import AdamW


def trained(width: int = 8, seed: int = 0) -> tuple[TransformerLM, AdamW]:
    """A small model and an optimizer with moments."""
    torch.manual_seed(seed)
    model = TransformerLM(ModelConfig(11, 4, width, 1, 2, 8))
    optimizer = AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        model(torch.arange(4)[None]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def snapshot(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """All state as text, every float exactly."""

    def plain(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.dtype, value.tolist()
        return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value

    return repr(plain({"model": model.state_dict(), "optimizer": optimizer.state_dict()}))


@pytest.fixture(scope="module")
def saved() -> bytes:
    buffer = io.BytesIO()
    save_checkpoint(*trained(), 2, buffer)
    return buffer.getvalue()


def test_round_trip_with_extra_entries(tmp_path) -> None:
    model, optimizer = trained()
    path = tmp_path / "new" / "folder" / "c.pt"
    save_checkpoint(model, optimizer, 2, path, sampler=torch.Generator().manual_seed(3).get_state(), seconds=1.5)
    other = trained(seed=1)
    assert load_checkpoint(path, *other) == 2
    assert snapshot(*other) == snapshot(model, optimizer)
    state = load_state(str(path))
    assert state["seconds"] == 1.5 and state["iteration"] == 2
    assert torch.equal(state["sampler"], torch.Generator().manual_seed(3).get_state())
    assert [p.name for p in path.parent.iterdir()] == ["c.pt"]


def cuts(saved: bytes) -> list[int]:
    return [*range(1, 300, 7), *range(300, len(saved), 97), len(saved) - 1]


def test_a_cut_anywhere_leaves_the_model_untouched(tmp_path, saved) -> None:
    model, optimizer = trained(seed=1)
    before, path = snapshot(model, optimizer), tmp_path / "cut.pt"
    for length in cuts(saved):
        path.write_bytes(saved[:length])
        with pytest.raises((ValueError, OSError)):
            load_checkpoint(path, model, optimizer)
    assert snapshot(model, optimizer) == before


def test_a_cut_anywhere_is_a_value_error_with_a_remedy(tmp_path, saved) -> None:
    path, leaked = tmp_path / "cut.pt", []
    for length in cuts(saved):
        path.write_bytes(saved[:length])
        try:
            load_state(path)
        except ValueError as error:
            assert "cut.pt is no readable checkpoint" in str(error) and "remove it to fall back" in str(error)
        except OSError as error:
            leaked.append((length, error))
    assert not leaked


def test_an_empty_file(tmp_path) -> None:
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ValueError, match=r"empty\.pt"):
        load_state(tmp_path / "empty.pt")


def foreign_files() -> dict[str, bytes]:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return {
        "text": b"hello, this is no checkpoint\n" * 10,
        "json": b'{"model": {}}',
        "zip": zipped.getvalue(),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "zeros": bytes(1000),
    }


@pytest.mark.parametrize("kind", list(foreign_files()))
def test_foreign_files(tmp_path, kind) -> None:
    path = tmp_path / f"{kind}.pt"
    path.write_bytes(foreign_files()[kind])
    with pytest.raises(ValueError, match=rf"{kind}\.pt is no readable checkpoint"):
        load_state(path)


@pytest.mark.filterwarnings("ignore")
def test_noise_is_refused_as_a_value_error(tmp_path) -> None:
    generator, path, leaked = random.Random(0), tmp_path / "noise.pt", set()
    whole = [pickle.dumps({"a": 1, "b": [1, (2, 3)], "c": "text"}, protocol=p) for p in range(3)]
    samples = [generator.randbytes(generator.randrange(1, 60)) for _ in range(300)]
    samples += [pickled[:end] for pickled in whole for end in range(1, len(pickled))]
    for sample in samples:
        path.write_bytes(sample)
        try:
            load_state(path)
        except ValueError:
            continue
        except (IndexError, TypeError, AttributeError, struct.error) as error:
            leaked.add(type(error).__name__)
    assert not leaked


def test_a_pickle_that_is_no_dictionary(tmp_path) -> None:
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(ValueError, match=r"tensor\.pt holds a Tensor, not a checkpoint dictionary"):
        load_state(tmp_path / "tensor.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"lacks \['iteration', 'model', 'optimizer'\]; it holds \['weights'\]"):
        load_checkpoint(tmp_path / "other.pt", *trained())
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*missing\.pt"):
        load_state(tmp_path / "missing.pt")


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("form", ["torch", "legacy torch", "bare pickle"])
def test_a_hostile_pickle_does_not_run(tmp_path, form) -> None:
    target, path = tmp_path / "exploded", tmp_path / "bomb.pt"
    content = {"model": Bomb(target), "optimizer": {}, "iteration": 1}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(ValueError, match=r"bomb\.pt is no readable checkpoint"):
        load_checkpoint(path, *trained())
    assert not target.exists()
    if form == "bare pickle":  # the bomb is real
        pickle.loads(path.read_bytes())
        assert target.exists()


# Full disks


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_keeps_the_former_checkpoint(tmp_path, monkeypatch, call) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(*trained(), 2, path)
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(*trained(seed=1), 3, path)
    monkeypatch.undo()
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    assert load_checkpoint(path, *trained(seed=1)) == 2


@pytest.mark.parametrize("limit", [0, 1000, 5000])
def test_writes_that_fail_half_way_keep_the_former_checkpoint(tmp_path, limit) -> None:
    """The kernel refuses to let any file grow past the limit, as it does on a full disk."""
    path = tmp_path / "c.pt"
    save_checkpoint(*trained(), 2, path)
    before, newer = path.read_bytes(), trained(seed=1)
    assert len(before) > limit
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises((OSError, RuntimeError)):
            save_checkpoint(*newer, 3, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_values_that_cannot_be_saved_keep_the_former_checkpoint(tmp_path) -> None:
    path = tmp_path / "c.pt"
    save_state({"a": torch.ones(2)}, path)
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        save_state({"a": torch.zeros(2), "f": lambda: None}, path)
    assert torch.equal(load_state(path)["a"], torch.ones(2)) and len(list(tmp_path.iterdir())) == 1


# Another model


def test_weights_of_another_shape_are_named(tmp_path, saved) -> None:
    model, optimizer = trained(width=16)
    before = snapshot(model, optimizer)
    words = r"another model; \d+ weights differ, .*token_embeddings\.weight: checkpoint \(11, 8\), model \(11, 16\)"
    with pytest.raises(ValueError, match=words):
        load_checkpoint(io.BytesIO(saved), model, optimizer)
    assert snapshot(model, optimizer) == before


def test_missing_and_additional_weights_are_named(saved) -> None:
    model, _ = trained()
    del model.ln_final.weight
    model.register_parameter("extra", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(ValueError, match=r"extra: checkpoint None, model \(2,\); ln_final.* model None"):
        load_checkpoint(io.BytesIO(saved), model, AdamW(model.parameters()))


def test_an_optimizer_of_another_form_leaves_the_model_untouched(saved) -> None:
    model, _ = trained(seed=1)
    optimizer = AdamW([{"params": [p]} for p in model.parameters()])
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError):
        load_checkpoint(io.BytesIO(saved), model, optimizer)
    assert snapshot(model, optimizer) == before
