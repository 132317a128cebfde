"""Decoded blocks of the patch cache, in memory up to a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from preprocessing.cache import PatchBatch, PatchCache


class BlockMemory:
    """The blocks used last; what is lacking is read by several threads at once.

    One thread decodes a few hundred MB a second, and a store answers each question slowly but many at a time.

    Args:
        cache: the patch cache.
        limit_bytes: of what is kept. The blocks of one call are held beside it while they are used.
        readers: threads.
    """

    def __init__(self, cache: PatchCache, limit_bytes: int, readers: int) -> None:
        self._cache, self._limit = cache, limit_bytes
        self._held: OrderedDict[int, PatchBatch] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()  # blocks are asked for by the thread that reads ahead and by the one that validates
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="patch-reader")

    def blocks(self, numbers: Iterable[int]) -> dict[int, PatchBatch]:
        """The blocks of these numbers, from memory or from the cache.

        Raises:
            RunError: see `PatchCache.read_block`.
        """
        wanted = [int(number) for number in dict.fromkeys(numbers)]
        with self._lock:
            found = {number: self._held[number] for number in wanted if number in self._held}
            for number in found:
                self._held.move_to_end(number)
        missing = [number for number in wanted if number not in found]
        for number, block in zip(missing, self._pool.map(self._cache.read_block, missing), strict=True):
            found[number] = block
            with self._lock:
                self._keep(number, block)
        return found

    def _keep(self, number: int, block: PatchBatch) -> None:
        if number in self._held:  # another thread was quicker
            return
        self._held[number] = block
        self._bytes += _size(block)
        while self._bytes > self._limit and len(self._held) > 1:
            self._bytes -= _size(self._held.popitem(last=False)[1])


def _size(block: PatchBatch) -> int:
    return block.patches.nbytes + block.label.nbytes + block.valid.nbytes
