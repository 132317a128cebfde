import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.loader import LoaderSettings, PatchLoader, epoch_order, rows_of
from tests.pipeline.fake_cache import FakeCache


@settings(max_examples=80)
@given(
    blocks=st.lists(st.integers(0, 9), min_size=1, max_size=60).map(sorted),
    seed=st.integers(0, 99), epoch=st.integers(0, 5), streams=st.integers(1, 12), window=st.integers(1, 5),
)  # fmt: skip
def test_an_epoch_sees_every_sample_once(blocks, seed, epoch, streams, window):
    order = epoch_order(np.array(blocks), seed, epoch, streams, window)
    assert sorted(order) == list(range(len(blocks)))
    assert np.array_equal(order, epoch_order(np.array(blocks), seed, epoch, streams, window))


def test_epochs_and_seeds_differ():
    blocks = np.arange(100) // 10
    first = epoch_order(blocks, 0, 0, 4, 10)
    assert not np.array_equal(first, epoch_order(blocks, 0, 1, 4, 10))
    assert not np.array_equal(first, epoch_order(blocks, 1, 0, 4, 10))


def test_workers_that_divide_the_streams_share_no_block():
    blocks = np.arange(320) // 10
    order = epoch_order(blocks, 0, 0, 8, 2)
    seen = [set(blocks[order[rank::4]]) for rank in range(4)]
    assert all(not a & b for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_batches_are_equal_on_any_number_of_workers_and_from_any_start(workers):
    cache, seed = FakeCache(), 3
    samples = np.arange(0, 50, 1)[5:48]

    def sequence(rank, workers, start):
        loader = PatchLoader(cache, samples, LoaderSettings(streams=3), seed, 10, rank, workers)
        return {int(p): int(s) for b in loader.batches(start, 130) for p, s in zip(b.position, b.sample, strict=True)}

    alone = sequence(0, 1, 0)
    assert sorted(alone) == list(range(130))
    assert sorted(alone[p] for p in range(43)) == list(samples)  # an epoch is every sample once
    together = {}
    for rank in range(workers):
        together |= sequence(rank, workers, 0)
    assert together == alone
    assert sequence(0, 1, 70) == {p: s for p, s in alone.items() if p >= 70}


def test_a_batch_holds_what_the_cache_holds():
    cache = FakeCache()
    scores = np.random.default_rng(0).random((50, cache.tokens)).astype(np.float16)
    loader = PatchLoader(cache, np.arange(50), LoaderSettings(), 0, 16, scores=scores)
    batch = next(iter(loader.batches(0, 160)))
    assert np.array_equal(batch.patches.numpy(), cache.whole.patches[batch.sample].astype(np.float32))
    assert np.array_equal(batch.label.numpy(), cache.whole.label[batch.sample])
    assert np.array_equal(batch.scores.numpy(), scores[batch.sample].astype(np.float32))
    part = rows_of(batch, torch.tensor([3, 1]))
    assert list(part.sample) == [batch.sample[3], batch.sample[1]]
    assert torch.equal(part.patches, batch.patches[[3, 1]])


def test_a_small_cache_is_read_once_and_a_large_one_streams():
    small = FakeCache(samples=60, rows=4)
    for _ in PatchLoader(small, np.arange(60), LoaderSettings(), 0, 10).batches(0, 600):
        pass
    assert sorted(small.reads) == list(range(15))
    # 2.4 MiB in blocks of 60 KiB, of which 1 MiB may be held: each block is read about once an epoch
    large = FakeCache(samples=800, rows=20)
    for _ in PatchLoader(large, np.arange(800), LoaderSettings(memory_mb=1, streams=2), 0, 10).batches(0, 1600):
        pass
    assert len(large.reads) <= 1.2 * 2 * len(large.blocks)
    assert len(large.reads) > 1.2 * len(large.blocks)


def test_some_samples_are_spread_over_all_and_always_the_same():
    lesion, others = np.arange(0, 40, 2), np.arange(1, 40, 2)
    loaders = [PatchLoader(FakeCache(), lesion, LoaderSettings(), seed, 4, others=others) for seed in (0, 1)]
    for loader in loaders:
        assert loader.some(99).tolist() == list(range(40))
        assert loader.some(4).tolist() == [0, 13, 26, 39]


def test_an_error_while_reading_reaches_the_training():
    cache = FakeCache()
    cache.read_block = lambda block: (_ for _ in ()).throw(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        next(iter(PatchLoader(cache, np.arange(50), LoaderSettings(), 0, 10).batches(0, 100)))


NATIVE_THREADS = """
import os, threading, time
import numpy as np
from pipeline.training.loader import LoaderSettings, PatchLoader
from tests.pipeline.fake_cache import FakeCache

def native():  # threads of the process that are not Python's own
    return len(os.listdir("/proc/self/task")) - threading.active_count()

cache = FakeCache(samples=64, size=(64, 64))
loader = PatchLoader(cache, np.arange(64), LoaderSettings(prefetch=1), 0, 32)
before = native()
batches = loader.batches(0, 640)
next(batches)  # 131,072 pixels: enough for a kernel to be divided
time.sleep(0.5)  # the loader waits with the next batch: no thread comes or goes while they are counted
print(native() - before)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc, which only Linux has")
def test_the_loader_has_no_openmp_threads_of_its_own():
    """With more of them than cores, libgomp lets those of the training sleep after each kernel."""
    done = subprocess.run(
        [sys.executable, "-c", NATIVE_THREADS],
        env=os.environ | {"OMP_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == 0
