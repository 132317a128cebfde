"""Whether segmenters use their encoder: `python -m tests.benchmarks.token_use RUN [RUN ...]`, folders of finished runs.

Mean DSC on annotated lesions of the training groups whose labels the runs did not use: as it is, with every token
replaced by the mean token, and with the tokens of another image. A segmenter that is as good with another image's
tokens does not look at them, and tells nothing of how they were pretrained.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

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


def loader_of(config: Config) -> PatchLoader:
    """Of the lesions that are annotated, lie in training groups, and were not among the run's labels."""
    cache, splits = PatchCache.open(config.cache.dir), Splits.read(str(UPath(config.run.dir) / "splits.csv"))
    unused = set(splits.cases("train")) - set(splits.labelled("train"))
    samples = cache.sample_indices(sorted(unused))
    samples = samples[cache.samples["lesion"].to_numpy()[samples] > 0]
    return PatchLoader(cache, samples, config.loader, 0, 1, 0, 1, torch.device("cpu"), None)


@torch.no_grad()
def row(name: str, model: TokenSegmenter, loader: PatchLoader, canvas: Canvas, config: Config) -> str:
    """The three DSC of a segmenter."""
    original = model.token_maps
    dsc: list[list[Tensor]] = [[], [], []]
    samples = loader.some(10**9)
    for start in range(0, len(samples), AT_ONCE):
        image, label, real = canvas.pixels(loader.gather(samples[start : start + AT_ONCE]))
        maps = original(image, real)  # standardised: the mean token is 0
        ways: list[Callable[..., list[Tensor]]] = [
            lambda *_, maps=maps: maps,
            lambda *_, maps=maps: [torch.zeros_like(tokens) for tokens in maps],
            lambda *_, maps=maps: [tokens.roll(1, 0) for tokens in maps],
        ]
        truth = region_masks(label, config.finetune.classes).bool()
        for found, way in zip(dsc, ways, strict=True):
            model.token_maps = way  # type: ignore[method-assign]
            predicted = (model(image, real).sigmoid() > THRESHOLD) & real
            both, either = ((a.flatten(1).sum(1)) for a in (predicted & truth, predicted.int() + truth.int()))
            found.append(2 * both / either)
    return " | ".join([name, *(f"{float(torch.cat(found).mean()):.3f}" for found in dsc)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs of one seed, with one cache")
    runs = parser.parse_args(arguments).runs
    config = load(runs[0] / "config.yaml", [], Config)
    loader, cache = loader_of(config), PatchCache.open(config.cache.dir)
    print("DSC | as it is | the mean token | another image's tokens")
    for run in runs:
        model, _ = load_segmenter(run / "finetune" / "segmenter")
        if isinstance(model, TokenSegmenter):
            canvas = Canvas(cache.size, cache.patch, cache.channels)
            print(row(run.name, model, loader, canvas, config), flush=True)


if __name__ == "__main__":
    main()
