"""Global batches from the patch cache, in an order that is a function of seed and epoch alone.

The samples of all epochs form one endless sequence. A global batch is the next B positions of it; a worker takes
the positions p with p % workers == its rank. Progress, masks and flips are keyed by position, so nothing changes
with the number of workers. Blocks of the cache are decoded by threads ahead of their use and kept in memory up
to a bound: a small cache is read once, a large one streams.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.training.block_memory import BlockMemory
from preprocessing.cache import CANDIDATE, PatchCache, unpack_real
from preprocessing.settings import NO_INFLUENCE, Settings

_DRAW = 1  # stream of the epoch's draw; the order uses seed and epoch alone


class LoaderSettings(Settings):
    """Memory, order and speed of the reading; the first two decide the order, and belong to the seed's contract."""

    memory_mb: int = Field(2048, ge=1, description="Decoded patches that one worker may hold in memory, in MiB.")
    streams: int = Field(
        8,
        ge=1,
        description="Parts into which an epoch's blocks are dealt; workers that divide this number share no block.",
    )
    prefetch: int = Field(
        2, ge=1, description="Batches prepared ahead of the training step.", json_schema_extra=NO_INFLUENCE
    )
    readers: int = Field(
        4, ge=1, description="Blocks that a worker reads and decodes at the same time.", json_schema_extra=NO_INFLUENCE
    )


def epoch_order(blocks: np.ndarray, seed: int, epoch: int, streams: int, window: int) -> np.ndarray:
    """A permutation of the samples that is random, yet reads each block about once.

    Blocks are shuffled and dealt to `streams`; each stream shuffles the samples of `window` blocks at a time;
    positions then take the streams in turn, so that p % streams tells the stream.

    Args:
        blocks: int [n], block of every sample.
        seed, epoch: the order's only source of chance.
        streams: number of streams, at least 1.
        window: blocks of a stream whose samples are mixed.

    Returns:
        int64 [n], a permutation of 0..n-1.
    """
    rng = np.random.default_rng([seed, epoch])
    names, block = np.unique(blocks, return_inverse=True)
    slot = rng.permutation(len(names))[block]
    stream = slot % min(streams, len(names))
    place = slot // min(streams, len(names)) // window
    inside = np.lexsort((rng.random(len(blocks)), place, stream))  # by stream, then window, then chance
    counts = np.bincount(stream)
    turn = np.empty(len(blocks), np.int64)
    turn[inside] = np.concatenate([np.arange(count) for count in counts])
    return np.lexsort((stream, turn)).astype(np.int64)


@dataclass
class Batch:
    """A worker's share b of a global batch, on the device.

    Attributes:
        position: int64 [b], global sample positions.
        sample: int64 [b], indices into the cache (on the CPU).
        patches: float32 [b, N, D]; real: bool [b, N, P], pixels that are not padding; valid: uint8 [b, N], their share.
        label: uint8 [b, N, P]; labelled: bool [b].
        scores: float32 [b, N], lesion scores, or None without selection.
    """

    position: Tensor
    sample: np.ndarray
    patches: Tensor
    real: Tensor
    valid: Tensor
    label: Tensor
    labelled: Tensor
    scores: Tensor | None

    @property
    def real_tokens(self) -> Tensor:
        """bool [b, N], patches that are not mostly padding: no method sees or reconstructs the others."""
        return self.valid >= CANDIDATE


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    """The given rows (int64 or bool on the device) of a batch."""
    taken = {f.name: getattr(batch, f.name) for f in fields(batch)}
    kept = {name: v[rows] for name, v in taken.items() if isinstance(v, Tensor)}
    return replace(batch, sample=batch.sample[rows.cpu().numpy()], **kept)


class PatchLoader:
    """Batches of the chosen samples from a global position on, without end.

    Args:
        cache: the patch cache.
        samples: int [n], the sample indices that belong to every epoch.
        settings: memory and order.
        seed: the run's seed.
        global_batch: samples of a step over all workers.
        rank, workers: this worker's part.
        device: where the batches go.
        scores: float32 [S, N], lesion scores of every sample of the cache, or None.
        others, share: indices of which an epoch takes some in turn, drawn anew each time, so that `samples` make up
            this share of it.
    """

    def __init__(
        self,
        cache: PatchCache,
        samples: np.ndarray,
        settings: LoaderSettings,
        seed: int,
        global_batch: int,
        rank: int = 0,
        workers: int = 1,
        device: torch.device | str = "cpu",
        scores: np.ndarray | None = None,
        others: np.ndarray | None = None,
        share: float = 0.5,
    ) -> None:
        self._cache, self._settings, self._seed = cache, settings, seed
        self._samples = np.asarray(samples, np.int64)
        self._others = np.zeros(0, np.int64) if others is None else np.asarray(others, np.int64)
        self._taken = min(len(self._others), round(len(self._samples) * (1 - share) / share))
        self._global_batch, self._rank, self._workers = global_batch, rank, workers
        self._device, self.scores = torch.device(device), scores
        self._block = cache.samples["block"].to_numpy()
        self._row = cache.samples["row"].to_numpy()
        self._memory = BlockMemory(cache, settings.memory_mb * 2**20, settings.readers)
        self._orders: dict[int, np.ndarray] = {}
        self.waited = 0.0

    @property
    def epoch_samples(self) -> int:
        """Samples of an epoch."""
        return len(self._samples) + self._taken

    def sample_at(self, positions: np.ndarray) -> np.ndarray:
        """Cache indices int64 of the given global positions."""
        epochs, places = np.divmod(positions, self.epoch_samples)
        found = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = self._order(int(epoch))[places[here]]
        return found

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """This worker's share of each global batch from position `start` up to `stop`.

        The time that the caller waits for data is added to `waited`, in seconds.
        """
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(self._settings.prefetch)
        ended = threading.Event()

        def offer(item: Batch | BaseException | None) -> bool:
            while not ended.is_set():
                try:
                    ready.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return True
            return False

        def prepare() -> None:
            try:
                for first in range(start, stop, self._global_batch):
                    positions = np.arange(first, min(first + self._global_batch, stop))
                    own = positions[positions % self._workers == self._rank]
                    if not offer(self._collate(own, self.sample_at(own))):
                        return
            except BaseException as error:  # noqa: BLE001  handed to the training thread, which raises it
                offer(error)
            else:
                offer(None)

        thread = threading.Thread(target=prepare, name="patch-loader", daemon=True)
        thread.start()
        try:
            while True:
                began = time.perf_counter()
                item = ready.get()
                self.waited += time.perf_counter() - began
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            ended.set()
            thread.join()

    def gather(self, samples: np.ndarray) -> Batch:
        """The given cache samples as one batch, their indices for positions."""
        return self._collate(np.asarray(samples, np.int64), np.asarray(samples, np.int64))

    def some(self, count: int) -> np.ndarray:
        """A few of all samples, evenly spread and always the same: int64 [at most count]."""
        every = np.sort(np.concatenate([self._samples, self._others]))
        return every[np.linspace(0, len(every) - 1, min(count, len(every))).astype(int)]

    def _order(self, epoch: int) -> np.ndarray:
        """The cache indices of an epoch, in order."""
        if epoch not in self._orders:
            drawn = np.random.default_rng([self._seed, epoch, _DRAW]).choice(self._others, self._taken, replace=False)
            samples = np.sort(np.concatenate([self._samples, drawn]))
            blocks = self._block[samples]
            rows = max(block.rows for block in self._cache.blocks)
            row_bytes = self._cache.tokens * (2 * self._cache.channels + 1) * int(np.prod(self._cache.patch))
            streams = min(self._settings.streams, len(np.unique(blocks)))
            # half of the memory for the windows being read; the other half lets the next ones come in
            window = self._settings.memory_mb * 2**20 // (2 * streams * rows * row_bytes)
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = samples[epoch_order(blocks, self._seed, epoch, streams, max(1, window))]
        return self._orders[epoch]

    def _collate(self, positions: np.ndarray, sample: np.ndarray) -> Batch:
        blocks = self._memory.blocks(self._block[sample])
        parts = [
            (blocks[int(block)], int(row)) for block, row in zip(self._block[sample], self._row[sample], strict=True)
        ]

        def move(values: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(values)
            if self._device.type == "cuda":
                tensor = tensor.pin_memory()
            return tensor.to(self._device, non_blocking=True)

        # converted by numpy: a kernel of torch's would give this thread OpenMP threads of its own, and with more of
        # them than cores those of the training sleep after each kernel, which halves its speed
        def stack(field: str, dtype: type | None = None) -> Tensor:
            return move(np.stack([getattr(block, field)[row] for block, row in parts], dtype=dtype))

        packed = np.stack([block.real[row] for block, row in parts])
        return Batch(
            position=move(positions),
            sample=sample,
            patches=stack("patches", np.float32),
            real=move(unpack_real(packed, self._cache.tokens, int(np.prod(self._cache.patch)))),
            valid=stack("valid"),
            label=stack("label"),
            labelled=stack("labelled"),
            scores=None if self.scores is None else move(np.asarray(self.scores[sample], np.float32)),
        )
