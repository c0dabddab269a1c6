"""data_prep/records.py: role-tagged prompts become messages and back, and keys tell contents apart."""

import pytest

from data_prep.records import content_key, join_turns, split_turns


def test_split_turns_tagged_lines_become_messages():
    prompt = "User: Hi, I'm Ann.\nAssistant: Hello Ann!\nNice to meet you.\nUser: What's my name?"
    assert split_turns(prompt) == [{"role": "user", "content": "Hi, I'm Ann."}, {"role": "assistant", "content": "Hello Ann!\nNice to meet you."},
                                   {"role": "user", "content": "What's my name?"}]


@pytest.mark.parametrize("prompt", [
    "What is 2 + 2?", "", "User: just me", "Assistant: a\nUser: b", "User: a\nAssistant: b", "Text first\nUser: a\nAssistant: b\nUser: c",
    "User: a\nUser: b\nUser: c"])
def test_split_turns_anything_else_is_one_user_message(prompt):
    assert split_turns(prompt) == [{"role": "user", "content": prompt}]


def test_join_turns_is_the_inverse():
    prompt = "User: a\nAssistant: b\nUser: c"
    assert join_turns(split_turns(prompt)) == prompt
    assert join_turns(split_turns("plain")) == "plain"


def test_content_key_moves_no_text_between_parts():
    assert content_key("d", "ab", "c") != content_key("d", "a", "bc")
    assert content_key("d", "a", "b") == content_key("d", "a", "b")
    assert len(content_key("d", "\ud800", "")) == 64
