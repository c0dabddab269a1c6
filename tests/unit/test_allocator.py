"""What a process holds after tensors of many sizes came and went is given back, at most once in a while."""

import subprocess
import sys

import pytest

from experts import allocator

# Small blocks in the heap, every second one freed: the gaps stay with the process until they are given back.
GAPS = """
import ctypes, psutil
from experts.allocator import give_back
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [libc.malloc(100_000) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
for block in blocks[::2]:
    libc.free(block)
held = psutil.Process().memory_info().rss
print(give_back(), (held - psutil.Process().memory_info().rss) // 2**20)
"""


@pytest.mark.skipif(allocator._malloc_trim() is None, reason="the C library isn't glibc")
def test_gaps_between_living_blocks_are_given_back():
    said, freed = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True).stdout.split()
    assert said == "True"
    assert int(freed) > 50  # of 95 MiB


def test_it_is_done_at_most_once_in_a_while(monkeypatch):
    now, given = [100.0], []
    monkeypatch.setattr(allocator.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(allocator, "give_back", lambda: given.append(now[0]))
    keeper = allocator.Keeper()
    for seconds in (1, 5, 9.9, 10, 11, 19.9, 20.5):
        now[0] = 100.0 + seconds
        keeper.tick()
    assert given == [110.0, 120.5]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator, "_malloc_trim", lambda: None)
    assert allocator.give_back() is False
