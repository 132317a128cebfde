"""What pretrained encoders know: `python -m tests.benchmarks.encoder_probe RUN [RUN ...]`, folders of finished runs.

The linear probe of the pretraining on every annotated lesion of the training and validation groups (the pretraining's
own looks at labels that may be used, alone), after each block, beside the random weights that the first run began with.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from upath import UPath

from pipeline.checkpoint import load_weights
from pipeline.config import Config
from pipeline.configuration.resolve import load
from pipeline.methods import Shape
from pipeline.models.encoder import Encoder
from pipeline.probe import Probe
from pipeline.training.loader import PatchLoader
from preprocessing.cache import PatchCache
from preprocessing.splits import Splits
from tests.benchmarks.token_use import cache_of


def probe_of(config: Config) -> Probe:
    """The probe of a run on all lesions that are annotated and no test cases."""
    cache, splits = PatchCache.open(cache_of(config)), Splits.read(str(UPath(config.run.dir) / "splits.csv"))
    lesion = set(cache.cases.loc[cache.cases["lesion_pixels"] > 0, "case"])
    samples = cache.sample_indices(
        [case for split in ("train", "val") for case in splits.cases(split) if case in lesion]
    )
    loader = PatchLoader(cache, samples, config.loader, 0, 1, 0, 1, torch.device("cpu"), None)
    groups = [splits.group(case) for case in cache.samples["case"].iloc[samples]]
    return Probe(loader, samples, groups, Shape.of(cache).coords())


def after(encoder: Encoder, blocks: int) -> Encoder:
    """The encoder's first blocks alone; 0: the patch embedding with its positions."""
    part = copy.deepcopy(encoder)
    if blocks < len(part.blocks):
        part.blocks, part.norm = part.blocks[:blocks], nn.Identity()  # type: ignore[assignment]
    return part


def row(name: str, encoder: Encoder, probe: Probe, depths: Sequence[int]) -> str:
    """DSC after each number of blocks."""
    return " | ".join([name, *(f"{probe.dsc(after(encoder, blocks)):.3f}" for blocks in depths)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs of one seed, with one cache")
    runs = parser.parse_args(arguments).runs
    config = load(runs[0] / "config.yaml", [], Config)
    probe, shape = probe_of(config), Shape.of(PatchCache.open(cache_of(config)))
    depths = sorted({0, *np.linspace(0, config.model.depth, 4).round().astype(int).tolist()})
    print(" | ".join(["DSC after block", *map(str, depths)]))
    torch.manual_seed(config.run.seed)
    encoder = Encoder(config.model, shape.token_dim, shape.dims).eval()
    first = load_weights(UPath(runs[0]) / "pretrain" / "encoder")[0]  # for how it standardises pixels
    encoder.load_state_dict({name: first[name] for name in ("embed.mean", "embed.scale")}, strict=False)
    print(row("random weights", encoder, probe, depths), flush=True)
    for run in runs:
        encoder.load_state_dict(load_weights(UPath(run) / "pretrain" / "encoder")[0])
        print(row(run.name, encoder, probe, depths), flush=True)


if __name__ == "__main__":
    main()
