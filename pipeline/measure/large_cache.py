"""A generated cache that is larger than the loader's memory, to see whether training waits for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.configuration.overrides import with_fields
from pipeline.pretrain import PretrainTask
from preprocessing.cache import CASES_FILE, FINGERPRINT_KEY, MANIFEST, SAMPLES_FILE, PatchCache, samples_of
from preprocessing.splits import Splits


def enlarged(task: PretrainTask, folder: str, memory_mb: int, times: float) -> PretrainTask:
    """The same pretraining, without scores, on its training samples repeated under new names.

    Args:
        task: a pretraining on a local cache.
        folder: receives the larger cache; one shard a repetition.
        memory_mb: what the loader may hold.
        times: size of the decoded samples over that memory, at least.
    """
    cache, splits = PatchCache.open(task.cache), Splits.read(task.splits)
    train = set(splits.pretraining())
    shards = pa.concat_tables([pq.read_table(f"{cache.root}/{s['file']}") for s in cache.manifest["shards"]])
    source = shards.filter(pa.array([case in train for case in shards["case"].to_pylist()]))
    sample_bytes = task.config.cache.sample_bytes(cache.channels)
    repeats = -(-int(memory_mb * 2**20 * times) // (source.num_rows * sample_bytes))
    rows = max(shard["row_groups"][0] for shard in cache.manifest["shards"])
    groups = [min(rows, source.num_rows - start) for start in range(0, source.num_rows, rows)]
    written, names = [], []
    for number in range(repeats):
        cases = [f"{case} copy {number}" for case in source["case"].to_pylist()]
        column = source.schema.get_field_index("case")
        table = source.set_column(column, source.schema.field(column), pa.array(cases))
        table = table.replace_schema_metadata({FINGERPRINT_KEY: cache.fingerprint.encode()})
        file = f"patches-{number:05d}.parquet"
        pq.write_table(table, f"{folder}/{file}", row_group_size=rows, compression="zstd", use_dictionary=False)
        written.append({"file": file, "rows": table.num_rows, "row_groups": groups})
        names += cases
    pd.DataFrame({"case": names, "labelled": True}).to_parquet(f"{folder}/{CASES_FILE}")
    pq.write_table(samples_of(folder, [shard["file"] for shard in written]), f"{folder}/{SAMPLES_FILE}")
    manifest = cache.manifest | {"shards": written, "samples": len(names), "cases": len(names)}
    (Path(folder) / MANIFEST).write_text(json.dumps(manifest))
    table = pd.DataFrame({"case": names, "group": names, "split": "train", "labelled_used": True})
    Splits(table).write(f"{folder}/splits.csv")
    fields = {
        "loader.memory_mb": memory_mb,
        "mask.strength.family": "constant",
        "mask.strength.start": 0.0,
        "mask.strength.end": 0.0,
    }
    return replace(task, config=with_fields(task.config, fields), cache=folder, splits=f"{folder}/splits.csv")
