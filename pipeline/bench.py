"""What the pipeline costs, measured: reading against memory, choosing masks against a step, caching."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from upath import UPath

from pipeline.loader import Batch
from pipeline.methods.mps_ams import MpsAms
from pipeline.overrides import with_fields
from pipeline.pretrain import Pretraining, PretrainTask
from pipeline.session import LocalSession
from preprocessing.cache import FINGERPRINT_KEY, MANIFEST, PatchCache
from preprocessing.splits import Splits

if TYPE_CHECKING:
    from pipeline.config import Config

_STEPS, _ROUNDS = 8, 5


@dataclass(frozen=True)
class Figure:
    """One measurement; target is a bound such as ">=0.95", "" where there is none."""

    value: float
    unit: str
    target: str = ""

    @property
    def met(self) -> bool:
        """Whether the value keeps the target."""
        if not self.target:
            return True
        bound = float(self.target[2:])
        return self.value >= bound if self.target.startswith(">=") else self.value <= bound


def reading(task: PretrainTask) -> dict[str, Figure]:
    """Training from the cache beside the same steps on tensors held in memory, in turns, on the same model."""
    with tempfile.TemporaryDirectory() as folder:
        training = Pretraining(task, LocalSession(Path(folder)))
        size = training.settings.batch
        held = list(islice(training.loader.batches(0, 10**9), _STEPS))
        stream = training.loader.batches(0, 10**9)
        for batch in held:  # both at their working speed: allocator, threads, file cache
            training._step(batch, 0)
            training._step(next(stream), 0)
        memory, cache, waited = [], [], 0.0
        for _ in range(_ROUNDS):
            memory.append(_seconds(training, cycle(held)))
            before = training.loader.waited
            cache.append(_seconds(training, stream))
            waited += training.loader.waited - before
        stream.close()  # type: ignore[attr-defined]
    ratio = statistics.median(m / c for m, c in zip(memory, cache, strict=True))
    return {
        "throughput": Figure(_STEPS * size * _ROUNDS / sum(cache), "samples/s"),
        "throughput over memory": Figure(ratio, "ratio", ">=0.95"),
        "data wait": Figure(waited / sum(cache), "share of time", "<=0.05"),
    }


def choosing(task: PretrainTask) -> dict[str, Figure]:
    """The time of a training step that goes into choosing its masks."""
    with tempfile.TemporaryDirectory() as folder:
        training = Pretraining(task, LocalSession(Path(folder)))
        model = training.model
        assert isinstance(model, MpsAms)
        batch = next(iter(training.loader.batches(0, training.settings.batch)))
        if batch.scores is None:
            batch = replace(batch, scores=torch.randn(batch.valid.shape))
        step = _median(lambda: training._step(batch, training.settings.batch), 10)
        mask = _median(lambda: model.plan(batch, 0.75, 0.3, 0), 50)
    return {
        "mask choice": Figure(mask / step, "share of a step", "<=0.01"),
        "mask choice time": Figure(mask * 1000, "ms"),
        "step": Figure(step * 1000, "ms"),
    }


def enlarged(task: PretrainTask, folder: str, memory_mb: int, times: float) -> PretrainTask:
    """The same task on a copy of its cache, repeated until it is `times` as large as the loader's memory.

    Each shard is written once for each repetition, under new case names, all of them training cases.
    """
    cache = PatchCache.open(task.cache)
    splits = Splits.read(task.splits)
    train = set(splits.pretraining())
    tables = []
    for shard in cache.manifest["shards"]:
        table = pq.read_table(f"{cache.root}/{shard['file']}")
        tables.append(table.filter(pa.array([case in train for case in table["case"].to_pylist()])))
    source = pa.concat_tables(tables)
    decoded = source.num_rows * cache.tokens * (2 * cache.channels + 1) * int(torch.tensor(cache.patch).prod())
    repeats = -(-int(memory_mb * 2**20 * times) // decoded)
    rows = cache.manifest["shards"][0]["row_groups"][0]
    Path(folder).mkdir(parents=True, exist_ok=True)
    shards, names = [], []
    for number in range(repeats):
        cases = [f"{case} copy {number}" for case in source["case"].to_pylist()]
        table = source.set_column(source.schema.get_field_index("case"), source.schema.field("case"), pa.array(cases))
        file = f"patches-{number:05d}.parquet"
        table = table.replace_schema_metadata({FINGERPRINT_KEY: cache.fingerprint.encode()})
        pq.write_table(table, f"{folder}/{file}", row_group_size=rows, compression="zstd", use_dictionary=False)
        groups = [min(rows, table.num_rows - start) for start in range(0, table.num_rows, rows)]
        shards.append({"file": file, "rows": table.num_rows, "row_groups": groups})
        names += cases
    labelled = dict.fromkeys(names, True)
    split_table = splits.table.set_index("case").loc[source["case"].to_pylist()]
    big = split_table.loc[split_table.index.repeat(1)].reset_index()
    copies = [big.assign(case=[f"{case} copy {n}" for case in big["case"]]) for n in range(repeats)]
    _write_side_tables(cache, folder, names, labelled)
    manifest = cache.manifest | {"shards": shards, "samples": len(names), "cases": len(names)}
    (Path(folder) / MANIFEST).write_text(json.dumps(manifest))
    import pandas as pd

    Splits(pd.concat(copies, ignore_index=True)).write(f"{folder}/splits.csv")
    fields = {"loader.memory_mb": memory_mb, "mask.strength.start": 0.0, "mask.strength.end": 0.0}
    return replace(task, config=with_fields(task.config, fields), cache=folder, splits=f"{folder}/splits.csv")


def _write_side_tables(cache: PatchCache, folder: str, names: list[str], labelled: dict[str, bool]) -> None:
    import pandas as pd

    pd.DataFrame({"case": names, "labelled": [labelled[name] for name in names]}).to_parquet(f"{folder}/cases.parquet")
    cache.rejected.to_parquet(f"{folder}/rejected.parquet")


def write(figures: dict[str, Figure], path: UPath) -> None:
    """{name: {value, unit, target}} as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: vars(figure) for name, figure in figures.items()}, indent=1))


def _seconds(training: Pretraining, batches: Iterator[Batch]) -> float:
    began = time.perf_counter()
    for batch in islice(batches, _STEPS):
        training._step(batch, 0)
    return time.perf_counter() - began


def _median(call: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def for_bench(config: Config) -> Config:
    """No probe and no picture in the timed steps."""
    return with_fields(config, {"pretrain.probe_every": 0, "pretrain.pictures": 0, "pretrain.noise_every": 0})
