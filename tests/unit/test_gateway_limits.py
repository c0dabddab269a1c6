"""Who may ask, which node stands in for which, and what stands in an error body."""

import json

import pytest

from experts.tree import Tree
from serving import sse
from serving.errors import ApiError, body_of, error_body
from serving.limits import bearer, check_admin, check_key, is_loopback, read_keys
from serving.snapshot import stands_of
from serving.wiring import threads_of_gateway
from settings import ServeSettings, SettingsError, TreeSettings

TREE = Tree.from_settings(TreeSettings())
KEY = "0123456789abcdef"


@pytest.mark.parametrize(("host", "loopback"), [
    ("127.0.0.1", True), ("127.8.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("0.0.0.0", False), ("192.168.0.2", False),
    ("localhost.evil.example", False), ("", False)])
def test_is_loopback_names_and_addresses(host, loopback):
    assert is_loopback(host) is loopback


def test_read_keys_file_and_environment_are_joined(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# for the web server\n{KEY}2\n\n", encoding="utf-8")
    assert read_keys(ServeSettings(api_key_file=str(file)), {"BRANCHWISE_API_KEY": KEY}) == (KEY, f"{KEY}2")


def test_read_keys_none_needed_on_loopback():
    assert read_keys(ServeSettings(), {}) == ()


@pytest.mark.parametrize(("serve", "environment", "words"), [
    ({"host": "0.0.0.0"}, {}, "open to other machines and there is no API key"),
    ({"host": "0.0.0.0"}, {"BRANCHWISE_API_KEY": " "}, "there is no API key"),
    ({}, {"BRANCHWISE_API_KEY": "short"}, "has 5 characters; at least 16"),
    ({"api_key_file": "/nowhere/keys"}, {}, "can't be read"),
])
def test_read_keys_wrong_ones_are_refused(serve, environment, words):
    with pytest.raises(SettingsError, match=words):
        read_keys(ServeSettings(**serve), environment)


@pytest.mark.parametrize(("header", "key"), [(f"Bearer {KEY}", KEY), (f"bearer  {KEY}", KEY), (f"Basic {KEY}", None), (None, None), ("Bearer ", None)])
def test_bearer_reads_the_key(header, key):
    assert bearer(header) == key


def test_check_key_unknown_key_is_401_and_a_known_one_passes():
    check_key(f"Bearer {KEY}", (KEY, "another-long-key-1"))
    with pytest.raises(ApiError) as error:
        check_key(f"Bearer {KEY}x", (KEY,))
    assert (error.value.status, error.value.code) == (401, "invalid_api_key")


@pytest.mark.parametrize(("remote", "origin", "host"), [
    ("10.0.0.1", None, "127.0.0.1"), (None, None, "127.0.0.1"), ("127.0.0.1", "https://evil.example", "127.0.0.1:8080"), ("127.0.0.1", "null", "127.0.0.1"),
    ("127.0.0.1", None, "evil.example:8080"), ("127.0.0.1", "http://[bad", "127.0.0.1")])
def test_check_admin_from_elsewhere_is_403(remote, origin, host):
    with pytest.raises(ApiError) as error:
        check_admin(authorization=None, remote=remote, origin=origin, host=host, keys=())
    assert error.value.status == 403


@pytest.mark.parametrize("origin", [None, "http://localhost:8080", "http://127.0.0.1:8080"])
def test_check_admin_from_this_machine_passes(origin):
    check_admin(authorization=None, remote="127.0.0.1", origin=origin, host="localhost:8080", keys=())


def test_check_admin_with_keys_only_the_key_counts():
    check_admin(authorization=f"Bearer {KEY}", remote="10.0.0.1", origin=None, host="gateway.example", keys=(KEY,))
    with pytest.raises(ApiError, match="no valid API key"):
        check_admin(authorization=None, remote="127.0.0.1", origin=None, host="localhost", keys=(KEY,))


def test_stands_only_the_root_promoted_it_answers_for_all():
    stands = stands_of(TREE, {"generalist"})
    assert {stand.model for stand in stands.values()} == {"generalist"}
    assert stands["generalist"].note == ""
    assert stands["math"].note == "math has no promoted version yet, so its ancestor generalist answers"


def test_stands_nearest_promoted_ancestor_answers():
    stands = stands_of(TREE, {"generalist", "analytical", "code"})
    assert (stands["math"].model, stands["reasoning"].model, stands["conversation"].model) == ("analytical", "analytical", "generalist")
    assert (stands["code"].model, stands["technical"].model) == ("code", "code")
    assert stands["technical"].note == "technical shares the model of code"


def test_stands_promoted_version_that_cant_be_loaded_isnt_taken_for_none():
    stands = stands_of(TREE, {"generalist"}, missing={"code"})
    assert stands["technical"].note == "the promoted version of code can't be loaded now, so its ancestor generalist answers"
    assert stands["math"].note == "math has no promoted version yet, so its ancestor generalist answers"


def test_stands_without_the_root_is_our_own_fault():
    with pytest.raises(KeyError, match="root must be promoted"):
        stands_of(TREE, {"math"})


def test_error_body_has_openais_shape():
    error = ApiError(429, "busy", code="queue_full", retry_after_s=1)
    assert body_of(error) == {"error": {"message": "busy", "type": "rate_limit_error", "param": None, "code": "queue_full"}}
    assert error_body(500, "x")["error"]["type"] == "server_error"
    assert error_body(418, "x")["error"]["type"] == "invalid_request_error"


def test_sse_event_is_one_line_of_ascii():
    sent = sse.event("token", {"text": "a\nb \u00e9\u2028"})
    assert sent == b'event: token\ndata: {"text":"a\\nb \\u00e9\\u2028"}\n\n'
    assert json.loads(sent.split(b"data: ")[1]) == {"text": "a\nb \u00e9\u2028"}


@pytest.mark.parametrize(("wanted", "gateway", "loop", "cores", "threads"), [
    (None, "cpu", "cpu (x86_64): named in the settings", 2, 1), (None, "cpu", "cpu (x86_64): auto", 16, 4), (6, "cpu", "cpu (x86_64): auto", 16, 6),
    (None, "cpu", "cuda:0 (card): auto", 16, None), (None, "cpu", None, 16, None), (None, "cuda", "cpu (x86_64): auto", 16, None)])
def test_threads_of_a_gateway_are_few_beside_a_loop_on_the_same_cpu(wanted, gateway, loop, cores, threads):
    assert threads_of_gateway(wanted, gateway=gateway, loop=loop, cores=cores) == threads
