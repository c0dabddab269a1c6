"""Trainer states: exact bits, newest whole one, damage, pruning."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experts import durable
from experts.checkpoint import NewerState, clear_states, has_state, load_newest, prune_states, save_state


def save(folder: Path, step: int) -> Path:
    return save_state(folder, tensors={"weight": torch.full((4,), float(step))}, facts={"step": step})


def step_of(folder: Path) -> int | None:
    state = load_newest(folder)
    return None if state is None else state.facts["step"]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


TENSORS = {
    "bf16": torch.tensor([1.0, -0.0, 3.3895e38, 1e-40], dtype=torch.bfloat16),
    "fp16": torch.tensor([65504.0, 6e-8], dtype=torch.float16),
    "fp32 with nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    "fp64": torch.tensor([1e-300, math.pi], dtype=torch.float64),
    "int64": torch.tensor([2**62, -1]),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}


@pytest.mark.parametrize("name", TENSORS)
def test_save_state_every_dtype_comes_back_bit_for_bit(tmp_path, name):
    save_state(tmp_path, tensors={name: TENSORS[name]}, facts={})
    state = load_newest(tmp_path)
    assert state is not None
    back = state.tensors[name]
    assert (back.dtype, back.shape) == (TENSORS[name].dtype, TENSORS[name].shape)
    assert back.contiguous().reshape(-1).view(torch.uint8).tolist() == TENSORS[name].reshape(-1).view(torch.uint8).tolist()


def test_save_state_generator_state_draws_the_same_numbers(tmp_path):
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    save_state(tmp_path, tensors={"torch": generator.get_state()}, facts={})
    expected = torch.rand(4, generator=generator)
    state = load_newest(tmp_path)
    assert state is not None
    again = torch.Generator()
    again.set_state(state.tensors["torch"])
    assert torch.equal(torch.rand(4, generator=again), expected)


def test_save_state_views_and_tied_tensors_come_back_equal_and_small(tmp_path):
    base = torch.arange(1000.0).reshape(100, 10)
    folder = save_state(tmp_path, tensors={"head": base, "tied": base, "column": base[:, 3], "transposed": base.T, "row": base[7]}, facts={})
    state = load_newest(tmp_path)
    assert state is not None
    assert state.tensors["tied"].tolist() == base.tolist()
    assert state.tensors["column"].tolist() == [10.0 * n + 3 for n in range(100)]
    assert state.tensors["transposed"].shape == (10, 100)
    assert torch.equal(state.tensors["transposed"], base.T)
    assert state.tensors["row"].tolist() == [70.0 + n for n in range(10)]
    assert (folder / "state.safetensors").stat().st_size < 4 * (3 * 1000 + 100 + 10) + 2000


def test_save_state_facts_come_back_as_json_has_them(tmp_path):
    facts = {"step": 12, "best": float("inf"), "loss": float("nan"), "seed": 2**80, "rng": (3, (1, 2), None), "lr": 0.1 + 0.2}
    save_state(tmp_path, tensors={}, facts=facts)
    state = load_newest(tmp_path)
    assert state is not None
    assert math.isnan(state.facts["loss"])
    assert {key: value for key, value in state.facts.items() if key != "loss"} == {
        "step": 12, "best": float("inf"), "seed": 2**80, "rng": [3, [1, 2], None], "lr": 0.30000000000000004}


def test_save_state_files_are_plain_safetensors_and_json(tmp_path):
    folder = save(tmp_path, 3)
    assert names_in(folder) == ["state.json", "state.safetensors"]
    assert load_file(folder / "state.safetensors")["weight"].tolist() == [3.0] * 4
    assert json.loads((folder / "state.json").read_text())["facts"] == {"step": 3}


def test_save_state_gradients_are_not_needed_to_be_off(tmp_path):
    save_state(tmp_path, tensors={"w": torch.nn.Parameter(torch.ones(2))}, facts={})
    state = load_newest(tmp_path)
    assert state is not None
    assert state.tensors["w"].tolist() == [1.0, 1.0]
    assert not state.tensors["w"].requires_grad


def test_save_state_sparse_tensor_is_refused_by_name_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"'w' is torch\.sparse_coo.*to_dense"):
        save_state(tmp_path, tensors={"w": torch.ones(2, 2).to_sparse()}, facts={})
    assert names_in(tmp_path) == []


def test_save_state_fact_that_is_not_json_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="can't be written as JSON: Object of type Tensor"):
        save_state(tmp_path / "states", tensors={}, facts={"loss": torch.tensor(1.0)})
    assert not (tmp_path / "states").exists()


def test_save_state_numbers_grow_also_when_steps_go_back(tmp_path):
    assert [save(tmp_path, step).name for step in (10, 20, 10)] == ["state-000001", "state-000002", "state-000003"]
    assert step_of(tmp_path) == 10


def test_save_state_less_than_twice_its_size_free_is_refused_and_the_old_loads(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(durable.shutil, "disk_usage", lambda _: type("usage", (), {"free": 31}))
    with pytest.raises(durable.OutOfSpace, match=r"32 bytes needed, 31 bytes free.*train\.checkpoints_keep"):
        save(tmp_path, 2)
    assert step_of(tmp_path) == 1


def test_load_newest_without_any_state_is_none(tmp_path):
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "absent") is None


def test_load_newest_many_states_order_is_by_number_not_by_text(tmp_path):
    for folder, step in (("state-999999", 1), ("state-1000000", 2)):
        save(tmp_path, step).rename(tmp_path / folder)
    assert step_of(tmp_path) == 2


def test_load_newest_tensors_have_memory_of_their_own(tmp_path):
    folder = save(tmp_path, 3)
    state = load_newest(tmp_path)
    assert state is not None
    file = folder / "state.safetensors"
    file.write_bytes(b"\x00" * file.stat().st_size)  # a tensor that maps the file would read zeros now
    assert state.tensors["weight"].tolist() == [3.0] * 4


def flip(path: Path, *, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(("harm", "reason"), [
    (lambda state: flip(state / "state.safetensors", at=-1), "its sha256 differs"),
    (lambda state: (state / "state.safetensors").write_bytes(b""), r"has 0 bytes, \d+ were written"),
    (lambda state: (state / "state.safetensors").unlink(), r"state\.safetensors is missing"),
    (lambda state: (state / "state.json").unlink(), r"state\.json is missing"),
    (lambda state: (state / "state.json").write_text('{"format": 1, "fac'), r"state\.json isn't JSON"),
    (lambda state: (state / "state.json").write_bytes(b"\xff\xfe"), r"state\.json isn't JSON"),
    (lambda state: (state / "state.json").write_text((state / "state.json").read_text().replace('"step": 2', '"step": 9')), "its seal is broken"),
    (lambda state: (state / "state.json").write_text("[]"), "its seal is broken"),
])
def test_load_newest_damaged_newest_is_set_aside_with_reason_and_the_one_before_loads(tmp_path, caplog, harm, reason):
    save(tmp_path, 1)
    harm(save(tmp_path, 2))
    with caplog.at_level(logging.ERROR):
        assert step_of(tmp_path) == 1
    assert re.search(rf"state-000002 is damaged \(.*{reason}.*\); set aside as state-000002\.damaged-1", caplog.text)
    assert names_in(tmp_path) == ["state-000001", "state-000002.damaged-1"]


def test_load_newest_damaged_folder_that_cannot_be_renamed_is_passed_over(tmp_path, monkeypatch):
    save(tmp_path, 1)
    flip(save(tmp_path, 2) / "state.safetensors", at=-1)

    def refuse(path, label):
        raise PermissionError("in use")
    monkeypatch.setattr(durable, "move_aside", refuse)
    assert step_of(tmp_path) == 1


def test_load_newest_state_of_a_later_program_is_refused_and_left(tmp_path):
    folder = save(tmp_path, 1)
    document = json.loads((folder / "state.json").read_text())
    del document["seal"]
    (folder / "state.json").write_text(json.dumps(durable.seal({**document, "format": 2})))
    with pytest.raises(NewerState, match=r"format 2.*update the program"):
        load_newest(tmp_path)
    assert names_in(tmp_path) == ["state-000001"]


def test_save_state_after_a_damaged_one_does_not_take_its_number(tmp_path):
    flip(save(tmp_path, 1) / "state.safetensors", at=-1)
    assert load_newest(tmp_path) is None
    assert save(tmp_path, 2).name == "state-000002"


def test_prune_states_keeps_the_newest(tmp_path):
    for step in range(1, 5):
        save(tmp_path, step)
    assert sorted(path.name for path in prune_states(tmp_path, 2)) == ["state-000001", "state-000002"]
    assert names_in(tmp_path) == ["state-000003", "state-000004"]


def test_prune_states_damaged_newest_does_not_count(tmp_path):
    for step in range(1, 4):
        save(tmp_path, step)
    flip(tmp_path / "state-000003" / "state.safetensors", at=-1)
    prune_states(tmp_path, 1)
    assert step_of(tmp_path) == 2
    assert names_in(tmp_path) == ["state-000002", "state-000003.damaged-1"]


def test_prune_states_keep_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep = 0; at least 1"):
        prune_states(tmp_path, 0)


def test_clear_states_removes_the_folder_at_once(tmp_path):
    for step in range(3):
        save(tmp_path / "math", step)
    assert clear_states(tmp_path / "math")
    assert names_in(tmp_path) == []
    assert clear_states(tmp_path / "math")


def test_has_state_is_true_where_one_can_be_gone_on_from(tmp_path):
    assert not has_state(tmp_path / "absent")
    assert not has_state(tmp_path)
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    assert has_state(tmp_path)
    (newest / "state.safetensors").write_bytes(b"torn")
    assert has_state(tmp_path)  # the one before
    assert step_of(tmp_path) == 1


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_has_state_is_false_where_every_state_was_set_aside(tmp_path, file):
    (save(tmp_path, 1) / file).write_bytes(b"torn")
    assert not has_state(tmp_path)
    assert names_in(tmp_path) == ["state-000001.damaged-1"]
    assert not has_state(tmp_path)
