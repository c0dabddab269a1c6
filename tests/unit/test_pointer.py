"""The pure rules of the pointer: generations, what was served before, bounded history, reading back."""

from __future__ import annotations

import json

import pytest

from experts.pointer import BadPointer, NewerPointer, Pointer, changed, decode, earlier_versions, encode, last_promoted_names

AT = "2026-01-01T00:00:00.000+00:00"


def after(*steps: tuple[str, dict[str, str | None]]) -> Pointer:
    pointer = Pointer()
    for kind, versions in steps:
        pointer = changed(pointer, versions, kind=kind, reason="r", at=AT)
    return pointer


def test_changed_two_names_is_one_generation():
    pointer = after(("promote", {"math": "v000001", "router": "v000001"}))
    assert (pointer.generation, dict(pointer.nodes), pointer.router) == (1, {"math": "v000001"}, "v000001")
    assert dict(pointer.history[0].changes) == {"math": (None, "v000001"), "router": (None, "v000001")}


def test_changed_nothing_new_is_the_same_generation():
    pointer = after(("promote", {"math": "v000001"}))
    assert changed(pointer, {"math": "v000001"}, kind="promote", reason="again", at=AT) is pointer


def test_changed_none_takes_the_name_out():
    pointer = after(("promote", {"math": "v000001", "code": "v000001"}), ("mend", {"math": None}))
    assert dict(pointer.nodes) == {"code": "v000001"}


def test_earlier_versions_after_promotions_are_newest_first():
    pointer = after(*(("promote", {"math": f"v00000{n}"}) for n in (1, 3, 4)))
    assert earlier_versions(pointer, "math") == ("v000003", "v000001")


def test_earlier_versions_after_a_rollback_forget_what_was_rolled_back():
    pointer = after(*(("promote", {"math": f"v00000{n}"}) for n in (1, 2, 3)), ("rollback", {"math": "v000002"}))
    assert earlier_versions(pointer, "math") == ("v000001",)


def test_earlier_versions_after_rollback_and_new_promotion_skip_the_bad_one():
    pointer = after(*(("promote", {"math": f"v00000{n}"}) for n in (1, 2)), ("rollback", {"math": "v000001"}), ("promote", {"math": "v000003"}))
    assert earlier_versions(pointer, "math") == ("v000001",)


def test_earlier_versions_of_an_unknown_name_are_none():
    assert earlier_versions(after(("promote", {"math": "v000001"})), "code") == ()


def test_last_promoted_names_are_those_of_the_newest_promotion_in_force():
    pointer = after(("promote", {"math": "v000001"}), ("promote", {"code": "v000001", "router": "v000001"}))
    assert set(last_promoted_names(pointer)) == {"code", "router"}


def test_last_promoted_names_after_undoing_the_newest_are_those_of_the_one_before():
    pointer = after(("promote", {"math": "v000001"}), ("promote", {"math": "v000002"}), ("promote", {"code": "v000001"}), ("rollback", {"code": None}))
    assert last_promoted_names(pointer) == ("math",)


def test_history_is_bounded_but_every_name_keeps_its_way_back():
    pointer = after(("promote", {"math": "v000001"}), ("promote", {"math": "v000002"}),
                    *(("promote", {"code": f"v{n:06d}"}) for n in range(1, 301)))
    assert len(pointer.history) == 102
    assert earlier_versions(pointer, "math") == ("v000001",)
    assert pointer.generation == 302


def test_decode_what_encode_made_is_equal():
    pointer = after(("promote", {"math": "v000001", "router": "v000002"}), ("rollback", {"math": None}))
    assert decode(json.dumps(encode(pointer)).encode()) == pointer


@pytest.mark.parametrize(("text", "message"), [
    (b"", "not JSON"),
    (b'{"format": 1, "generation"', "not JSON"),
    (b"\xff\xfe\x00", "not JSON"),
    (b"[1, 2]", "not a pointer"),
    (b'{"name": "other"}', "not a pointer"),
    (b'{"format": 1, "nodes": {}}', "not a whole pointer"),
    (b'{"format": 1, "generation": -1, "nodes": {}, "router": null, "history": []}', "generation -1"),
    (b'{"format": 1, "generation": 1, "nodes": {"math": "../../etc"}, "router": null, "history": []}', "no version"),
    (b'{"format": 1, "generation": 1, "nodes": {"../math": "v000001"}, "router": null, "history": []}', "can't name a node"),
    (b'{"format": 1, "generation": 1, "nodes": {"math": 4}, "router": null, "history": []}', "not a whole pointer"),
])
def test_decode_damaged_or_foreign_text_is_refused_with_the_reason(text, message):
    with pytest.raises(BadPointer, match=message):
        decode(text)


def test_decode_pointer_of_a_later_program_is_not_taken_for_damaged():
    with pytest.raises(NewerPointer, match="update the program"):
        decode(b'{"format": 2, "anything": "else"}')
