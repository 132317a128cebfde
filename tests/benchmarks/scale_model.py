"""What 10, 1,000 or 100,000 volumes take, on paper: `python -m tests.benchmarks.scale_model [--help]`.

Sizes and FLOPs follow from the configuration (HECKTOR, profile full); seconds of a core and the size of compressed
patches were measured on the PET/CT scans of docs/results.md; what a scan is like, what a GPU does and what things cost
are assumptions, and options.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from pipeline.config import Config
from pipeline.configuration.resolve import load
from pipeline.measure.estimate import model_of, parameters
from pipeline.measure.flops import step_cost
from pipeline.methods import Shape

CHANNELS, FLOAT = 2, 4
VOLUMES = (10, 1_000, 100_000)
STATES = 3  # of a weight in a checkpoint: itself and Adam's two moments


def option(default: float, text: str) -> float:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Assumed:
    """Numbers that the configuration does not give."""

    scan_mb: float = option(45, "a patient's files, CT and PET, compressed")
    body_mm: float = option(200 * 350 * 300, "of the part that is kept, mm3 after cropping to the foreground")
    compressed: float = option(0.41, "bytes of a patch in the cache over bytes in memory")
    core_s_per_mb: float = option(0.18, "core-seconds to preprocess a MB of scans")
    samples_seen: float = option(
        20e6, "most samples that a pretraining looks at; small sets repeat for pretrain.epochs"
    )
    tflops: float = option(70, "of a GPU at bf16, dense (A10G)")
    used: float = option(0.3, "share of that which a training reaches")
    gpu_hour: float = option(0.45, "price of a spot GPU machine's hour, USD")
    core_hour: float = option(0.02, "price of a spot core's hour, USD")
    gb_month: float = option(0.023, "price of a GB-month in an object store, USD")
    gpus: float = option(8, "training side by side")
    cores: float = option(64, "preprocessing side by side")


def rows(config: Config, assumed: Assumed) -> dict[str, list[str]]:
    """One line a quantity, a column a number of volumes."""
    shape = Shape(CHANNELS, config.cache.size, config.cache.patch)
    crop_mm = math.prod(config.cache.size) * math.prod(config.cache.spacing)
    crops = math.ceil(assumed.body_mm / crop_mm)
    in_memory = config.cache.sample_bytes(CHANNELS)
    flops = step_cost(config, shape).mean
    rate = assumed.tflops * 1e12 * assumed.used / flops  # samples a second of one GPU
    checkpoint = parameters(model_of(config, CHANNELS)) * FLOAT * STATES
    table: dict[str, list[str]] = {}

    def add(name: str, text: str) -> None:
        table.setdefault(name, []).append(text)

    for volumes in VOLUMES:
        samples = volumes * crops
        cache = samples * in_memory * assumed.compressed
        seen = min(assumed.samples_seen, samples * config.pretrain.epochs)
        preprocess = volumes * assumed.scan_mb * assumed.core_s_per_mb / 3600
        gpu_hours = seen / rate / 3600
        add("scans", size(volumes * assumed.scan_mb * 1e6))
        add("crops in the cache", f"{samples:,}")
        add("cache", size(cache))
        add("preprocessing, core-hours", f"{preprocess:.2g}")
        add(f"preprocessing on {assumed.cores:.0f} cores", hours(preprocess / min(assumed.cores, volumes)))
        add(
            "reading the scans then, all cores",
            rate_of(assumed.scan_mb * 1e6 * volumes, preprocess, assumed.cores, volumes),
        )
        add("samples seen in pretraining", f"{seen / 1e6:.2f} M ({seen / samples:.3g} epochs)")
        add("pretraining, GPU-hours", f"{gpu_hours:.2g}")
        add(f"pretraining on {assumed.gpus:.0f} GPUs", hours(gpu_hours / assumed.gpus))
        add("reading the cache, a GPU", f"{rate * in_memory * assumed.compressed / 1e6:.0f} MB/s")
        add("a checkpoint", size(checkpoint))
        cost = preprocess * assumed.core_hour + gpu_hours * assumed.gpu_hour
        add("machines, USD", f"{cost:,.2f}")
        add(
            "scans and cache for a month, USD",
            f"{(volumes * assumed.scan_mb / 1e3 + cache / 1e9) * assumed.gb_month:,.2f}",
        )
    return table


def size(count: float) -> str:
    for unit in ("MB", "GB", "TB"):
        count /= 1e6 if unit == "MB" else 1e3
        if count < 1000 or unit == "TB":
            break
    return f"{count:.3g} {unit}"


def hours(number: float) -> str:
    seconds = 3600 * number
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{number:.1f} h"


def rate_of(total: float, core_hours: float, cores: float, volumes: int) -> str:
    return f"{total / (core_hours / min(cores, volumes) * 3600) / 1e6:.0f} MB/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for entry in fields(Assumed):
        flag = f"--{entry.name.replace('_', '-')}"
        parser.add_argument(flag, type=float, default=entry.default, help=f"{entry.metadata['help']} (%(default)s)")
    config = load(Path("configs/hecktor.yaml"), ["profile=full"], Config)
    print(f"| | {' | '.join(f'{volumes:,}' for volumes in VOLUMES)} |\n|---|{'---|' * len(VOLUMES)}")
    for name, cells in rows(config, Assumed(**vars(parser.parse_args()))).items():
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
