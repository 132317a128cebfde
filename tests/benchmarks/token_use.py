"""Whether segmenters use their encoder: `python -m tests.benchmarks.token_use RUN [RUN ...]`, folders of finished runs.

Mean DSC on annotated lesions of the training groups whose labels the runs did not use: as it is, with every token
replaced by the mean token, and with the tokens of another image. A segmenter that is as good with another image's
tokens does not look at them, and tells nothing of how they were pretrained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from upath import UPath

from pipeline.config import Config
from pipeline.configuration.resolve import load
from pipeline.models.token_segmenter import TokenSegmenter
from pipeline.segmentation.canvas import Canvas
from pipeline.segmentation.regions import region_masks
from pipeline.segmentation.segmenter_file import load_segmenter
from pipeline.training.loader import PatchLoader
from preprocessing.cache import PatchCache
from preprocessing.splits import Splits

THRESHOLD, AT_ONCE = 0.3, 32  # the same for all arms, where their curves are flat


def cache_of(config: Config) -> str:
    """Where the cache of a finished run lies."""
    return config.cache.dir or str(UPath(config.run.dir) / "cache")


def loader_of(config: Config) -> PatchLoader:
    """Of the lesions that are annotated, lie in training groups, and were not among the run's labels."""
    cache, splits = PatchCache.open(cache_of(config)), Splits.read(str(UPath(config.run.dir) / "splits.csv"))
    unused = set(splits.cases("train")) - set(splits.labelled("train"))
    samples = cache.sample_indices(sorted(unused))
    samples = samples[cache.samples["lesion"].to_numpy()[samples] > 0]
    return PatchLoader(cache, samples, config.loader, 0, 1, 0, 1, torch.device("cpu"), None)


@torch.no_grad()
def row(name: str, model: TokenSegmenter, loader: PatchLoader, canvas: Canvas, config: Config) -> str:
    """The three DSC of a segmenter."""
    samples = loader.some(10**9)
    parts = [samples[start : start + AT_ONCE] for start in range(0, len(samples), AT_ONCE)]
    own, attended = [], []
    for part in parts:
        image, _, real = canvas.pixels(loader.gather(part))
        own.append(model.token_maps(image, real))
        attended.append(model.attended(real))
    every, attend = [torch.cat(level) for level in zip(*own, strict=True)], torch.cat(attended)
    ways = [every, [_mean(tokens, attend) for tokens in every], [tokens.roll(1, 0) for tokens in every]]
    return " | ".join([name, *(f"{_dsc(model, maps, parts, loader, canvas, config):.3f}" for maps in ways)])


def _mean(tokens: Tensor, attend: Tensor) -> Tensor:
    """The mean of the real tokens at the place of each of them; float [S, width, *grid], attend [S, K]."""
    flat = tokens.flatten(2).transpose(1, 2)
    mean = flat[attend].mean(0) * attend[..., None]
    return mean.transpose(1, 2).reshape(tokens.shape)


def _dsc(
    model: TokenSegmenter,
    maps: Sequence[Tensor],
    parts: Sequence[np.ndarray],
    loader: PatchLoader,
    canvas: Canvas,
    config: Config,
) -> float:
    """Mean DSC of a segmenter that is given these token maps for its own."""
    original, found, start = model.token_maps, [], 0
    for part in parts:
        image, label, real = canvas.pixels(loader.gather(part))
        given = [tokens[start : start + len(part)] for tokens in maps]
        model.token_maps = lambda *_, given=given: given  # type: ignore[method-assign]
        predicted = (model(image, real).sigmoid() > THRESHOLD) & real
        truth = region_masks(label, config.finetune.classes).bool()
        both, either = ((a.flatten(1).sum(1)) for a in (predicted & truth, predicted.int() + truth.int()))
        found.append(2 * both / either)
        start += len(part)
    model.token_maps = original  # type: ignore[method-assign]
    return float(torch.cat(found).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs of one seed, with one cache")
    runs = parser.parse_args(arguments).runs
    config = load(runs[0] / "config.yaml", [], Config)
    loader, cache = loader_of(config), PatchCache.open(cache_of(config))
    print("DSC | as it is | the mean token | another image's tokens")
    for run in runs:
        model, _ = load_segmenter(run / "finetune" / "segmenter")
        if isinstance(model, TokenSegmenter):
            canvas = Canvas(cache.size, cache.patch, cache.channels)
            print(row(run.name, model, loader, canvas, config), flush=True)


if __name__ == "__main__":
    main()
