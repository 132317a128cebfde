"""A patch cache in memory, for tests of what reads one."""

from __future__ import annotations

import numpy as np
import pandas as pd

from preprocessing.cache import Block, PatchBatch
from preprocessing.geometry.patchify import patchify


class FakeCache:
    """`samples` random images with a square lesion each, in blocks of `rows`; counts the blocks read."""

    def __init__(self, samples=50, rows=7, size=(32, 32), patch=(8, 8), channels=1, seed=0):
        rng = np.random.default_rng(seed)
        self.size, self.patch, self.channels, self.dims = size, patch, channels, len(size)
        self.grid = tuple(s // p for s, p in zip(size, patch, strict=True))
        self.modalities = tuple(f"m{channel}" for channel in range(channels))
        self.case_numbers = np.arange(samples)
        self.tokens = int(np.prod(self.grid))
        self.reads = []
        image = rng.random((samples, channels, *size)).astype(np.float16)
        label = np.zeros((samples, 1, *size), np.uint8)
        for row in range(samples):
            corner = rng.integers(0, size[0] // 2, len(size))
            place = (row, 0, *(slice(c, c + size[0] // 2) for c in corner))
            label[place] = 1
            image[(row, slice(None), *place[2:])] *= 0.2
        frame = np.array([0] * len(size) + list(size), np.int32)
        pixels = samples * self.tokens * int(np.prod(patch))
        self.whole = PatchBatch(
            patches=patchify(image, patch),
            valid=np.full((samples, self.tokens), 255, np.uint8),
            label=patchify(label, patch),
            labelled=np.ones(samples, bool),
            real=np.packbits(np.ones(pixels, bool).reshape(samples, -1), axis=1),
            frame=np.tile(frame, (samples, 1)),
            sample=np.arange(samples),
        )
        starts = list(range(0, samples, rows))
        self.blocks = [Block("fake", i, min(rows, samples - s)) for i, s in enumerate(starts)]
        number = np.arange(samples)
        self.samples = pd.DataFrame(
            {
                "sample": 0, "case": [f"case {i:03d}" for i in number], "block": number // rows,
                "row": number % rows, "labelled": True, "lesion": label.reshape(samples, -1).sum(1),
            }
        )  # fmt: skip

    def read_block(self, block):
        self.reads.append(block)
        return self.whole.take(np.flatnonzero(self.samples["block"] == block))

    def image_digests(self, cases):
        return {case: [f"digest of {case}"[10:]] for case in cases}

    def sample_indices(self, cases):
        return np.flatnonzero(self.samples["case"].isin(set(cases)))
