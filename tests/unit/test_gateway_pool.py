"""What stays in memory: eviction as a pure choice, holds, retirement. Models are stand-ins that count."""

import threading

import pytest

from serving.engines.interface import Capacity, LoadFailed
from serving.pool import Held, Pool, Retired, evictions


class Model:
    def __init__(self, size):
        self.size, self.closed = size, 0

    def capacity(self):
        return Capacity(1, 0, 0, self.size)

    def close(self):
        self.closed += 1


class Engine:
    def __init__(self, size=100):
        self.size, self.loaded, self.fail = size, [], False

    def load(self, folder, *, name):
        if self.fail:
            raise LoadFailed("no")
        self.loaded.append(Model(self.size))
        return self.loaded[-1]


def _folder(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "model.safetensors").write_bytes(bytes(100))
    return tmp_path / name


def _held(name, size, last_used, *, uses=0, pinned=False):
    return Held((name, "v1"), size, uses, last_used, pinned)


def test_evictions_least_recently_used_idle_ones_leave_first():
    held = [_held("a", 40, 3.0), _held("b", 40, 1.0), _held("c", 40, 2.0)]
    assert evictions(held, needed_bytes=50, budget_bytes=120) == [("b", "v1"), ("c", "v1")]


def test_evictions_nothing_leaves_when_it_fits():
    assert evictions([_held("a", 40, 1.0)], needed_bytes=60, budget_bytes=100) == []


def test_evictions_used_and_pinned_ones_stay():
    held = [_held("root", 40, 0.0, pinned=True), _held("busy", 40, 1.0, uses=1), _held("idle", 40, 2.0)]
    assert evictions(held, needed_bytes=40, budget_bytes=120) == [("idle", "v1")]
    assert evictions(held, needed_bytes=80, budget_bytes=120) is None


def test_pool_second_hold_loads_nothing(tmp_path):
    engine = Engine()
    pool = Pool(engine, budget_bytes=None)
    resident = pool.resident("math", "v1", _folder(tmp_path, "m"), pinned=False)
    assert resident.acquire() is resident.acquire()
    assert len(engine.loaded) == 1


def test_pool_retired_version_is_freed_after_its_last_request(tmp_path):
    engine = Engine()
    pool = Pool(engine, budget_bytes=None)
    resident = pool.resident("math", "v1", _folder(tmp_path, "m"), pinned=False)
    model = resident.acquire()
    resident.acquire()
    pool.keep_only([])
    resident.release()
    assert model.closed == 0
    resident.release()
    assert model.closed == 1
    with pytest.raises(Retired, match="math v1 left the snapshot"):
        resident.acquire()


def test_pool_over_budget_the_idle_one_leaves_and_comes_back_on_demand(tmp_path):
    engine = Engine()
    pool = Pool(engine, budget_bytes=250)
    root, first, second = (pool.resident(name, "v1", _folder(tmp_path, name), pinned=name == "root") for name in ("root", "first", "second"))
    for resident in (root, first, second):
        resident.acquire()
        resident.release()
    assert [model.closed for model in engine.loaded] == [0, 1, 0]
    first.acquire()
    assert [model.closed for model in engine.loaded] == [0, 1, 1, 0]


def test_pool_over_budget_with_everything_in_use_is_refused_and_holds_nothing(tmp_path):
    pool = Pool(Engine(), budget_bytes=150)
    first, second = (pool.resident(name, "v1", _folder(tmp_path, name), pinned=False) for name in ("first", "second"))
    first.acquire()
    with pytest.raises(LoadFailed, match=r"don't fit serve\.memory_mib"):
        second.acquire()
    assert second.uses == 0


def test_pool_failed_load_gives_the_hold_back(tmp_path):
    engine = Engine()
    engine.fail = True
    resident = Pool(engine, budget_bytes=None).resident("math", "v1", _folder(tmp_path, "m"), pinned=False)
    with pytest.raises(LoadFailed):
        resident.acquire()
    assert resident.uses == 0


def test_pool_many_threads_load_one_version_once(tmp_path):
    engine = Engine()
    resident = Pool(engine, budget_bytes=None).resident("math", "v1", _folder(tmp_path, "m"), pinned=False)
    threads = [threading.Thread(target=resident.acquire) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(engine.loaded), resident.uses) == (1, 20)


def test_pool_load_that_breaks_in_an_unforeseen_way_is_a_failed_load_and_gives_the_hold_back(tmp_path):
    class Broken(Exception):
        pass

    def broken():
        raise Broken("the header is cut")

    resident = Pool(Engine(), budget_bytes=None).resident("math", "v1", tmp_path, pinned=False, load=broken)
    with pytest.raises(LoadFailed, match=r"math v1 can't be loaded: Broken: the header is cut"):
        resident.acquire()
    assert resident.uses == 0


def test_pool_version_that_another_process_removed_is_a_failed_load(tmp_path, monkeypatch):
    resident = Pool(Engine(), budget_bytes=None).resident("math", "v1", _folder(tmp_path, "m"), pinned=False)
    monkeypatch.setattr(type(tmp_path), "glob", lambda folder, pattern: iter([folder / "gone.safetensors"]))
    with pytest.raises(LoadFailed, match="FileNotFoundError"):
        resident.acquire()
    assert resident.uses == 0


def test_pool_two_loads_at_once_dont_share_the_same_free_memory(tmp_path):
    """The second asks for room while the first, which will need it, still loads."""
    loading, go_on = threading.Event(), threading.Event()

    class Slow(Engine):
        def load(self, folder, *, name):
            loading.set()
            assert go_on.wait(20)
            return super().load(folder, name=name)

    engine = Slow()
    pool = Pool(engine, budget_bytes=150)
    first, second = (pool.resident(name, "v1", _folder(tmp_path, name), pinned=False) for name in ("first", "second"))
    failures = []

    def take(resident):
        try:
            resident.acquire()
        except LoadFailed as error:
            failures.append(str(error))

    threads = [threading.Thread(target=take, args=(resident,)) for resident in (first, second)]
    threads[0].start()
    assert loading.wait(20)
    threads[1].start()
    threads[1].join(timeout=0.2)  # it waits for its turn
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(engine.loaded) == 1
    assert ["don't fit serve.memory_mib" in failure for failure in failures] == [True]
