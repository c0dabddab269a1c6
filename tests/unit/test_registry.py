"""Versions, pointer, rollback, damage, pruning."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import pytest

from experts import durable, registry
from experts.registry import DamagedVersion, Registry, RegistryError, UnknownVersion, surplus


@pytest.fixture
def run(tmp_path) -> Registry:
    return Registry(tmp_path / "run")


def content(text: str):
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(text.encode())
        (folder / "config.json").write_text("{}")
    return write


def grow(run: Registry, name: str, *, promoted: int) -> list[str]:
    """`promoted` versions of name, each put in force in turn."""
    versions = []
    for number in range(promoted):
        version = run.add(name, content(f"{name} {number}"), card={"scorecard": {"accuracy": number / 10}})
        run.promote({name: version}, reason=f"better {number}")
        versions.append(version)
    return versions


def spoil(run: Registry, name: str, version: str) -> None:
    """Change one byte, not the size."""
    file = run.path(name, version) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(bytes(data))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_registry_new_run_has_generation_zero_and_touches_nothing(run):
    pointer = run.pointer()
    assert (pointer.generation, dict(pointer.nodes), pointer.router) == (0, {}, None)
    assert run.served("math") is None
    assert not run.run_dir.exists()


def test_add_first_version_card_has_facts_size_and_sha256_of_every_file(run):
    version = run.add("math", content("weights"), card={"scorecard": {"accuracy": 0.5}, "parent": None})
    card = json.loads((run.run_dir / "nodes" / "math" / "v000001" / "card.json").read_text())
    assert version == "v000001"
    assert (card["name"], card["version"], card["scorecard"], card["parent"]) == ("math", "v000001", {"accuracy": 0.5}, None)
    assert card["files"] == {"model.safetensors": {"sha256": hashlib.sha256(b"weights").hexdigest(), "size": 7},
                             "config.json": {"sha256": hashlib.sha256(b"{}").hexdigest(), "size": 2}}
    assert run.card("math", "v000001") == card


def test_add_is_not_in_force_until_promoted(run):
    run.add("math", content("a"), card={})
    assert run.served("math") is None
    assert run.versions("math") == ["v000001"]


def test_add_router_lies_beside_the_nodes(run):
    version = run.add("router", content("a"), card={})
    run.promote({"router": version}, reason="first")
    assert run.served("router") == run.run_dir / "router" / "v000001"
    assert run.pointer().router == "v000001"


def test_add_write_fails_nothing_is_left_and_the_number_is_free(run):
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("no memory")
    with pytest.raises(RuntimeError, match="no memory"):
        run.add("math", write, card={})
    assert names_in(run.run_dir / "nodes" / "math") == []
    assert run.add("math", content("a"), card={}) == "v000001"


@pytest.mark.parametrize(("write", "message"), [
    (lambda folder: None, "with no file"),
    (lambda folder: (folder / "card.json").write_text("{}"), r"a card\.json of its own"),
])
def test_add_without_files_or_with_a_card_of_its_own_is_refused(run, write, message):
    with pytest.raises(ValueError, match=message):
        run.add("math", write, card={})


def test_add_reserved_key_in_card_is_refused_by_name(run):
    with pytest.raises(ValueError, match=r"\['files'\], which the registry writes itself"):
        run.add("math", content("a"), card={"files": {}})


@pytest.mark.parametrize("name", ["Math", "../math", "", "math/v1", "9math"])
def test_add_bad_name_is_refused(run, name):
    with pytest.raises(ValueError, match="can't name a node"):
        run.add(name, content("a"), card={})


def test_add_disk_too_full_for_twice_the_last_version_is_refused_before_writing(run, monkeypatch):
    grow(run, "math", promoted=1)  # 6 + 2 bytes
    usage = type("usage", (), {"free": 15})
    monkeypatch.setattr(durable.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(durable.OutOfSpace, match="16 bytes needed, 15 bytes free"):
        run.add("math", lambda folder: pytest.fail("must not write"), card={})
    assert run.served("math") is not None


def test_promote_several_at_once_is_one_generation_kept_over_a_new_process(run):
    versions = {name: run.add(name, content(name), card={}) for name in ("math", "code", "router")}
    run.promote(versions, reason="first")
    pointer = Registry(run.run_dir).pointer()
    assert (pointer.generation, dict(pointer.nodes), pointer.router) == (1, {"math": "v000001", "code": "v000001"}, "v000001")
    assert pointer.history[-1].reason == "first"


def test_promote_unknown_version_is_refused_with_the_known_ones(run):
    grow(run, "math", promoted=2)
    with pytest.raises(UnknownVersion, match=r"no version v000009 of math; there are: v000001, v000002"):
        run.promote({"math": "v000009"}, reason="r")
    assert run.pointer().nodes["math"] == "v000002"


def test_promote_damaged_version_is_refused_and_set_aside(run):
    grow(run, "math", promoted=1)
    version = run.add("math", content("bad"), card={})
    spoil(run, "math", version)
    with pytest.raises(DamagedVersion, match=r"math v000002 is damaged: model\.safetensors isn't what was written"):
        run.promote({"math": version}, reason="r")
    assert run.pointer().generation == 1
    assert run.versions("math") == ["v000001"]


def test_promote_one_bad_of_two_changes_neither(run):
    good = run.add("code", content("a"), card={})
    with pytest.raises(UnknownVersion):
        run.promote({"code": good, "math": "v000001"}, reason="r")
    assert run.pointer().generation == 0


def test_promote_nothing_is_refused(run):
    with pytest.raises(ValueError, match="promote got no version"):
        run.promote({}, reason="r")


@pytest.mark.parametrize(("harm", "message"), [
    (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "has 1 bytes, 6 were written"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"math 1"), "its sha256 differs"),
    (lambda folder: (folder / "card.json").unlink(), r"no card\.json"),
    (lambda folder: (folder / "card.json").write_text('{"files": {'), "isn't JSON"),
    (lambda folder: (folder / "card.json").write_text((folder / "card.json").read_text().replace("0.0", "0.9")), "its seal is broken"),
    (lambda folder: (folder / "card.json").write_text("[]"), "its seal is broken"),
])
def test_verify_every_kind_of_damage_is_found(run, harm, message):
    grow(run, "math", promoted=1)
    harm(run.path("math", "v000001"))
    with pytest.raises(DamagedVersion, match=message):
        run.verify("math", "v000001")


def test_verify_whole_version_is_hashed_once_a_process(run, monkeypatch):
    grow(run, "math", promoted=1)
    for file in run.path("math", "v000001").iterdir():
        os.utime(file, (1_700_000_000, 1_700_000_000))
    run.verify("math", "v000001")
    monkeypatch.setattr(durable.hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    run.verify("math", "v000001")


def test_served_damaged_version_is_set_aside_and_the_one_before_is_served(run, caplog):
    grow(run, "math", promoted=2)
    spoil(run, "math", "v000002")
    with caplog.at_level(logging.WARNING):
        assert run.served("math") == run.path("math", "v000001")
    assert "v000002 is damaged: model.safetensors isn't what was written: its sha256 differs; set aside as v000002.damaged-1" in caplog.text
    assert names_in(run.run_dir / "nodes" / "math") == ["v000001", "v000002.damaged-1"]


def test_served_damaged_version_the_pointer_is_mended_and_says_why(run):
    grow(run, "math", promoted=2)
    spoil(run, "math", "v000002")
    run.served("math")
    pointer = Registry(run.run_dir).pointer()
    assert (pointer.generation, pointer.nodes["math"]) == (3, "v000001")
    assert (pointer.history[-1].kind, dict(pointer.history[-1].changes)) == ("mend", {"math": ("v000002", "v000001")})
    assert "sha256 differs" in pointer.history[-1].reason


def test_served_two_damaged_versions_the_third_is_served(run):
    grow(run, "math", promoted=3)
    spoil(run, "math", "v000003")
    (run.path("math", "v000002") / "card.json").unlink()
    assert run.served("math") == run.path("math", "v000001")


def test_served_damaged_version_never_falls_back_to_one_that_was_not_promoted(run):
    run.add("math", content("candidate"), card={})
    version = run.add("math", content("good"), card={})
    run.promote({"math": version}, reason="r")
    spoil(run, "math", version)
    assert run.served("math") is None
    assert "math" not in run.pointer().nodes


def test_served_deleted_folder_the_one_before_is_served(run):
    grow(run, "math", promoted=2)
    durable.remove_folder(run.path("math", "v000002"))
    assert run.served("math") == run.path("math", "v000001")


def test_served_version_pruned_by_another_process_meanwhile_the_new_one_is_served(run, monkeypatch):
    grow(run, "math", promoted=2)
    real = run.verify

    def verify(name, version):
        if version == "v000002":
            other = Registry(run.run_dir)
            grow(other, "math", promoted=2)
            other.prune(1)
        real(name, version)
    monkeypatch.setattr(run, "verify", verify)
    assert run.served("math") == run.path("math", "v000004")


def test_served_damaged_folder_that_cannot_be_renamed_is_marked(run, monkeypatch):
    grow(run, "math", promoted=2)
    spoil(run, "math", "v000002")

    def refuse(path, label):
        raise PermissionError("in use")
    monkeypatch.setattr(durable, "move_aside", refuse)
    assert run.served("math") == run.path("math", "v000001")
    assert "sha256 differs" in (run.run_dir / "nodes" / "math" / "v000002.damaged").read_text()
    assert Registry(run.run_dir).versions("math") == ["v000001"]
    with pytest.raises(DamagedVersion, match="sha256 differs"):
        Registry(run.run_dir).promote({"math": "v000002"}, reason="r")


def test_served_unreadable_now_is_passed_over_but_not_set_aside(run, monkeypatch):
    grow(run, "math", promoted=2)
    real = durable.sha256_of

    def sha256_of(path, *, cached=False):
        if "v000002" in str(path):
            raise OSError(5, "Input/output error")
        return real(path, cached=cached)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "sha256_of", sha256_of)
        assert run.served("math") == run.path("math", "v000001")
    assert run.pointer().nodes["math"] == "v000002"
    assert run.served("math") == run.path("math", "v000002")


def test_add_after_a_damaged_version_takes_a_new_number(run):
    grow(run, "math", promoted=2)
    spoil(run, "math", "v000002")
    run.served("math")
    assert run.add("math", content("c"), card={}) == "v000003"


def test_rollback_of_a_name_takes_the_version_served_before_and_again_the_one_before_that(run):
    grow(run, "math", promoted=3)
    assert run.rollback("math", reason="worse").nodes["math"] == "v000002"
    assert run.rollback("math", reason="worse still").nodes["math"] == "v000001"
    with pytest.raises(RegistryError, match="no whole version served before v000001"):
        run.rollback("math", reason="again")


def test_rollback_skips_versions_added_but_never_promoted(run):
    grow(run, "math", promoted=1)
    run.add("math", content("refused"), card={})
    grow(run, "math", promoted=1)
    assert run.rollback("math", reason="r").nodes["math"] == "v000001"


def test_rollback_without_name_undoes_the_last_generation_whole(run):
    grow(run, "math", promoted=2)
    grow(run, "code", promoted=1)
    both = {"code": run.add("code", content("c2"), card={}), "router": run.add("router", content("r"), card={})}
    run.promote(both, reason="both")
    pointer = run.rollback(reason="undo")
    assert (dict(pointer.nodes), pointer.router) == ({"math": "v000002", "code": "v000001"}, None)
    assert dict(run.rollback(reason="undo").nodes) == {"math": "v000002"}
    assert dict(run.rollback(reason="undo").nodes) == {"math": "v000001"}


def test_rollback_to_a_damaged_version_takes_the_whole_one_before_it(run):
    grow(run, "math", promoted=3)
    spoil(run, "math", "v000002")
    assert run.rollback("math", reason="r").nodes["math"] == "v000001"


def test_rollback_in_a_new_run_is_refused(run):
    with pytest.raises(RegistryError, match="no promotion is in force"):
        run.rollback(reason="r")
    with pytest.raises(RegistryError, match="no version of it is in force; there are: none"):
        run.rollback("math", reason="r")


def test_prune_keeps_the_newest_and_returns_the_removed(run):
    grow(run, "math", promoted=5)
    assert run.prune(3) == [("math", "v000001"), ("math", "v000002")]
    assert run.versions("math") == ["v000003", "v000004", "v000005"]
    assert names_in(run.run_dir / "nodes" / "math") == ["v000003", "v000004", "v000005"]


def test_prune_to_one_keeps_the_served_and_its_rollback_target(run):
    grow(run, "math", promoted=4)
    run.prune(1)
    assert run.versions("math") == ["v000003", "v000004"]
    assert run.rollback("math", reason="r").nodes["math"] == "v000003"


def test_prune_after_rollback_keeps_what_is_served(run):
    grow(run, "math", promoted=4)
    run.rollback("math", reason="r")
    run.rollback("math", reason="r")
    run.prune(1)
    assert run.versions("math") == ["v000001", "v000002", "v000004"]
    assert run.served("math") == run.path("math", "v000002")


def test_prune_keeps_versions_in_use(run):
    grow(run, "math", promoted=4)
    run.prune(1, in_use={("math", "v000001"), ("code", "v000002")})
    assert run.versions("math") == ["v000001", "v000003", "v000004"]


def test_prune_damaged_served_version_does_not_remove_its_stand_in(run):
    versions = grow(run, "math", promoted=2)
    for number in range(4):
        run.add("math", content(f"refused {number}"), card={})
    spoil(run, "math", versions[1])
    run.prune(1)
    assert run.served("math") == run.path("math", "v000001")


def test_prune_every_name_the_router_too(run):
    for name in ("math", "router"):
        grow(run, name, promoted=4)
    assert run.prune(2) == [("math", "v000001"), ("math", "v000002"), ("router", "v000001"), ("router", "v000002")]


def test_prune_folder_that_the_system_will_not_let_go_stays_whole(run, monkeypatch, caplog):
    grow(run, "math", promoted=4)

    class Holding(durable.Disk):
        def replace(self, source, target):
            if source.name == "v000001":
                raise PermissionError(13, "in use")
            super().replace(source, target)
    monkeypatch.setattr(durable, "disk", Holding())
    with caplog.at_level(logging.WARNING):
        assert run.prune(2) == [("math", "v000002")]
    assert "v000001 can't be removed now" in caplog.text
    run.verify("math", "v000001")


def test_prune_only_the_newest_damaged_folder_is_left(run):
    grow(run, "math", promoted=4)
    for version in ("v000004", "v000003"):
        spoil(run, "math", version)
    run.served("math")
    run.prune(3)
    assert names_in(run.run_dir / "nodes" / "math") == ["v000001", "v000002", "v000004.damaged-1"]


def test_prune_keep_below_one_is_refused(run):
    with pytest.raises(ValueError, match="keep = 0; at least 1"):
        run.prune(0)


def test_surplus_keep_counts_the_must_ones():
    versions = [f"v00000{n}" for n in range(1, 7)]
    assert surplus(versions, keep=3, must=["v000001", None]) == ["v000002", "v000003", "v000004"]
    assert surplus(versions, keep=1, must=["v000002", "v000003"]) == ["v000001", "v000004", "v000005"]
    assert surplus([], keep=1, must=[]) == []


@pytest.mark.parametrize("damage", [b"", b'{"format": 1, "gener', b"\x00" * 64, b'{"other": "program"}', None])
def test_pointer_damaged_or_deleted_is_recovered_whole_from_its_backup(run, damage, caplog):
    grow(run, "math", promoted=2)
    before = run.pointer()
    if damage is None:
        (run.run_dir / "current.json").unlink()
    else:
        (run.run_dir / "current.json").write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert Registry(run.run_dir).pointer() == before
    assert "generation 2 from current.backup.json is in force" in caplog.text


def test_pointer_damaged_is_said_once_not_at_every_look(run, caplog):
    grow(run, "math", promoted=1)
    (run.run_dir / "current.json").write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            run.pointer()
    assert caplog.text.count("from current.backup.json") == 1


def test_promote_after_a_damaged_pointer_writes_a_good_one_and_keeps_the_bad_aside(run):
    grow(run, "math", promoted=2)
    (run.run_dir / "current.json").write_bytes(b"torn")
    grow(run, "math", promoted=1)
    assert json.loads((run.run_dir / "current.json").read_text())["nodes"] == {"math": "v000003"}
    assert (run.run_dir / "current.json.damaged-1").read_bytes() == b"torn"


def test_pointer_and_backup_damaged_is_a_clear_error_and_no_version_is_touched(run):
    grow(run, "math", promoted=1)
    for name in ("current.json", "current.backup.json"):
        (run.run_dir / name).write_bytes(b"torn")
    with pytest.raises(RegistryError, match=r"current\.json can't be used \(not JSON.*nor can current\.backup\.json.*move both files away"):
        run.pointer()
    with pytest.raises(RegistryError, match="no version was touched"):
        run.prune(1)
    assert run.versions("math") == ["v000001"]


def test_pointer_of_a_later_program_is_refused_although_a_backup_is_there(run):
    grow(run, "math", promoted=1)
    (run.run_dir / "current.json").write_text('{"format": 99}')
    with pytest.raises(RegistryError, match=r"format 99.*update the program"):
        run.pointer()


def test_writing_lock_held_by_another_is_waited_for_and_then_named(run, monkeypatch):
    version = run.add("math", content("a"), card={})
    monkeypatch.setattr(registry, "_LOCK_WAIT_S", 0.05)
    with registry.FileLock(run.run_dir / "registry.lock"), pytest.raises(RegistryError, match=r"another process has held .*registry\.lock for 0\.05 s"):
        run.promote({"math": version}, reason="r")
    assert run.pointer().generation == 0


def test_first_write_clears_what_a_dead_writer_left(run):
    grow(run, "math", promoted=1)
    left = run.run_dir / "nodes" / "math" / f".tmp-new-{os.getpid()}-aaaaaaaa"
    left.mkdir()
    grow(Registry(run.run_dir), "code", promoted=1)
    assert not left.exists()


def test_foreign_folder_among_the_nodes_is_left_alone(run):
    grow(run, "math", promoted=1)
    (run.run_dir / "nodes" / "My Notes").mkdir()
    run.prune(1)
    assert names_in(run.run_dir / "nodes") == ["My Notes", "math"]
