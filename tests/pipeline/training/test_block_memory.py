"""Blocks in memory against a cache that counts and times its reads."""

import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.block_memory import BlockMemory
from preprocessing.errors import RunError

BYTES = 100  # of a block, as it is counted


class Cache:
    """Blocks that hold their own number."""

    def __init__(self):
        self.reads = Counter()

    def read_block(self, number):
        self.reads[number] += 1
        if number < 0:
            raise RunError("the shard is damaged")
        values = np.full(BYTES, number % 256, np.uint8)
        return SimpleNamespace(patches=values, label=values[:0], valid=values[:0])


@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=8), max_size=20), st.integers(1, 30))
def test_every_call_gets_its_blocks_whatever_is_kept(calls, kept):
    cache = Cache()
    memory = BlockMemory(cache, kept * BYTES, readers=3)
    for numbers in calls:
        found = memory.blocks(np.array(numbers))
        assert found.keys() == set(numbers)
        assert all((block.patches == number).all() for number, block in found.items())
        assert len(memory._held) <= kept
    if kept >= len({number for numbers in calls for number in numbers}):
        assert set(cache.reads.values()) <= {1}  # all fits: each is read once


def test_what_was_used_last_is_kept():
    cache = Cache()
    memory = BlockMemory(cache, 2 * BYTES, readers=1)
    for number in (1, 2, 1, 3, 1, 2):
        memory.blocks([number])
    assert cache.reads == {1: 1, 2: 2, 3: 1}


def test_lacking_blocks_are_read_at_the_same_time():
    cache, together = Cache(), threading.Barrier(4)
    read = cache.read_block
    cache.read_block = lambda number: (together.wait(10), read(number))[1]  # ends only with four readers inside
    assert len(BlockMemory(cache, 1000, readers=4).blocks(range(4))) == 4


def test_a_damaged_shard_is_told():
    with pytest.raises(RunError, match="damaged"):
        BlockMemory(Cache(), 1000, readers=2).blocks([1, -1])


def test_threads_that_want_the_same_blocks_count_each_once():
    cache = Cache()
    memory = BlockMemory(cache, 6 * BYTES, readers=4)
    start = threading.Barrier(3)

    def ask():
        start.wait()
        for turn in range(300):
            memory.blocks([turn % 10, (turn + 1) % 10])

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory._bytes == BYTES * len(memory._held) == 6 * BYTES
