"""What a gateway does about versions that could not be read or loaded for a moment: it says so and tries them again. Engines are stand-ins."""

import pytest

import settings as configuration
from experts import durable
from experts.device import cpu_device
from experts.registry import Registry
from serving import gateway as gateways
from serving.engines.interface import Capacity, LoadFailed
from serving.gateway import Gateway

ASKED = [{"role": "user", "content": "What is 3 + 4?"}]


class Model:
    context_tokens = 64

    def capacity(self):
        return Capacity(8, 0, 0, 100)

    def close(self):
        pass


class Engine:
    """Loads everything but the nodes in failing; loads keeps the names of all tries."""

    name = "stand-in"

    def __init__(self):
        self.failing, self.loads, self.said = set(), [], "memory is short"

    def load(self, folder, *, name):
        self.loads.append(name)
        if name.split()[0] in self.failing:
            raise LoadFailed(f"{name}: {self.said}")
        return Model()

    def close(self):
        pass


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path)


@pytest.fixture
def gateway(tmp_path):
    gateway = Gateway(configuration.check({"run": {"dir": str(tmp_path)}}), engine=Engine(), device=cpu_device())
    yield gateway
    gateway.close()


def _promote(registry, *names):
    versions = {name: registry.add(name, lambda folder, name=name: (folder / "model.safetensors").write_bytes(name.encode()), card={}) for name in names}
    registry.promote(versions, reason="test")


def _reason(gateway, node):
    decision = gateway.decide(ASKED, node=node)
    return decision.resident.name, decision.route.reason


def _unreadable_once(monkeypatch, part):
    """The next file hashed whose path has this part can't be read."""
    sound, left = durable.sha256_of, [part]

    def sha256_of(path, **options):
        if left and left[0] in path.as_posix():
            left.clear()
            raise OSError(24, "Too many open files")
        return sound(path, **options)

    monkeypatch.setattr(durable, "sha256_of", sha256_of)


def test_node_that_could_not_be_loaded_at_the_start_is_said_and_loaded_by_a_reload(registry, gateway):
    _promote(registry, "generalist", "math")
    gateway.engine.failing = {"math"}
    assert gateway.look()
    assert gateway.last_failure == "math v000001 is left out: math v000001: memory is short"
    assert _reason(gateway, "math") == ("generalist", "asked for by name; the promoted version of math can't be loaded now, so its ancestor generalist answers")
    assert _reason(gateway, "reasoning")[1].endswith("reasoning has no promoted version yet, so its ancestor generalist answers")
    gateway.engine.failing = set()
    assert not gateway.look()  # the time for another try hasn't come
    assert gateway.look(again=True)
    assert (gateway.snapshot.versions["math"], gateway.last_failure, gateway.swaps) == ("v000001", None, 2)
    assert _reason(gateway, "math") == ("math", "asked for by name")
    assert not gateway.look(again=True)


def test_failure_of_a_look_is_none_any_more_once_another_look_succeeds(registry, gateway, monkeypatch):
    _promote(registry, "generalist", "math")
    gateway.look()
    object.__setattr__(gateway.settings.serve, "poll_s", 0.01)
    sound, looks = gateway.look, []

    def look():
        looks.append(gateway.last_failure)
        if len(looks) in {1, 3}:
            raise OSError(24, "Too many open files") if len(looks) == 1 else RuntimeError("a fault of a library")
        gateway._stop.set() if len(looks) > 4 else None
        return sound()

    monkeypatch.setattr(gateway, "look", look)
    gateway._poll()
    assert looks == [None, "the registry can't be read: [Errno 24] Too many open files", None,
                     "looking for new versions broke: RuntimeError; the log has it", None]


def test_faults_that_nobody_saw_pass_stay_while_a_generation_is_tried_again(registry, gateway):
    _promote(registry, "generalist", "math", "code")
    gateway.engine.failing = {"math"}
    gateway.look()
    gateway._faults.note("look", "the registry can't be read")
    gateway._faults.note("code", "code v000001 can't be loaded")
    assert not gateway.look(again=True)
    assert gateway.last_failure == "math v000001 is left out: math v000001: memory is short; code v000001 can't be loaded"
    _promote(registry, "math")
    gateway.engine.failing = set()
    assert gateway.look()
    assert gateway.last_failure is None  # other versions serve


def test_node_that_could_not_be_loaded_is_tried_again_after_a_while_without_being_asked(registry, gateway, monkeypatch):
    _promote(registry, "generalist", "math")
    gateway.engine.failing = {"math"}
    gateway.look()
    monkeypatch.setattr(gateways, "_RETRY_FAILED_S", 0.0)
    assert not gateway.look()
    assert (gateway.engine.loads, gateway.swaps) == (["generalist v000001", "math v000001", "math v000001"], 1)  # a try that changes nothing is no swap
    gateway.engine.failing = set()
    assert gateway.look()
    assert "math" in gateway.snapshot.versions


def test_node_that_can_not_be_loaded_keeps_no_other_promotion_out(registry, gateway):
    _promote(registry, "generalist", "math")
    gateway.engine.failing = {"math"}
    gateway.look()
    _promote(registry, "code")
    assert gateway.look()
    assert gateway.snapshot.versions == {"generalist": "v000001", "code": "v000001"}
    assert "math v000001 is left out" in gateway.last_failure


def test_new_version_that_can_not_be_loaded_leaves_the_one_that_is_served(registry, gateway):
    _promote(registry, "generalist", "math")
    gateway.look()
    _promote(registry, "math")
    gateway.engine.failing = {"math"}
    assert not gateway.look()
    assert (gateway.snapshot.generation, gateway.snapshot.versions["math"]) == (1, "v000001")
    assert gateway.last_failure == "generation 2 isn't served, what was served before stays: math v000002: memory is short"


@pytest.mark.parametrize("again", [True, False])
def test_first_version_that_could_not_be_read_is_said_and_taken_later(registry, gateway, monkeypatch, again):
    _promote(registry, "generalist", "math")
    _unreadable_once(monkeypatch, "nodes/math")
    assert gateway.look()
    assert gateway.last_failure == "math v000001 can't be read now and is left out"
    assert "the promoted version of math can't be loaded now" in _reason(gateway, "math")[1]
    if not again:
        monkeypatch.setattr(gateways, "_RETRY_FAILED_S", 0.0)
    assert gateway.look(again=again)
    assert (gateway.snapshot.versions["math"], gateway.last_failure) == ("v000001", None)


@pytest.mark.parametrize("again", [True, False])
def test_new_version_that_could_not_be_read_is_said_and_taken_later(registry, gateway, monkeypatch, again):
    _promote(registry, "generalist", "math")
    gateway.look()
    _promote(registry, "math")
    _unreadable_once(monkeypatch, "nodes/math/v000002")
    assert gateway.look()
    assert (gateway.snapshot.generation, gateway.snapshot.versions["math"]) == (2, "v000001")
    assert gateway.last_failure == "math v000002 can't be read now, v000001 is served in its place"
    if not again:
        monkeypatch.setattr(gateways, "_RETRY_FAILED_S", 0.0)
    assert gateway.look(again=again)
    assert (gateway.snapshot.versions["math"], gateway.last_failure) == ("v000002", None)
    assert gateway.engine.loads.count("generalist v000001") == 1


def test_router_that_could_not_be_read_is_said_in_the_reason_too(registry, gateway, monkeypatch):
    _promote(registry, "generalist")
    gateway.look()
    assert _reason(gateway, None)[1] == "no router has been promoted yet, so generalist answers"
    _promote(registry, "router")
    _unreadable_once(monkeypatch, "router/v000001")
    gateway.look()
    assert gateway.last_failure == "router v000001 can't be used, so generalist answers; the nodes of generation 2 are served: it can't be read now"
    assert _reason(gateway, None)[1] == "the promoted router can't be used now, so generalist answers"


@pytest.mark.parametrize("served", ["math", "generalist"])
def test_served_version_that_cant_be_read_at_another_promotion_goes_on(registry, gateway, monkeypatch, served):
    _promote(registry, "generalist", "math")
    gateway.look()
    before = gateway.snapshot.residents[served]
    _unreadable_once(monkeypatch, f"nodes/{served}")
    _promote(registry, "code")
    assert gateway.look()
    assert gateway.snapshot.residents[served] is before
    assert set(gateway.snapshot.versions) == {"generalist", "math", "code"}
    assert gateway.last_failure is None


def test_root_that_cant_be_read_at_the_start_is_said_and_nothing_else_is_loaded(registry, gateway, monkeypatch):
    _promote(registry, "generalist", "math")
    _unreadable_once(monkeypatch, "nodes/generalist")
    assert not gateway.look()
    assert "generalist v000001 can't be read now" in gateway.last_failure
    assert gateway.engine.loads == []
    assert gateway.look(again=True)


def test_try_that_fails_in_other_words_is_no_swap(registry, gateway):
    _promote(registry, "generalist", "math")
    gateway.engine.failing = {"math"}
    gateway.look()
    swaps = gateway.swaps
    gateway.engine.said = "49 MB are free"
    assert not gateway.look(again=True)
    assert gateway.swaps == swaps
    assert "49 MB are free" in gateway.last_failure
