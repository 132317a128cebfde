"""A patch cache written directly, without scans or Ray, for tests of what is computed from one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.cache import CASES_FILE, FINGERPRINT_KEY, INPUTS_FILE, MANIFEST, SAMPLES_FILE, PatchCache, samples_of
from preprocessing.geometry.patchify import patchify
from preprocessing.schema import CASES, INPUTS, SCHEMA_VERSION, patch_schema


def write_cache(
    root: Path,
    images: np.ndarray,
    labels: np.ndarray,
    patch: Sequence[int],
    boxes: np.ndarray | None = None,
    rows: int = 4,
    fingerprint: str = "tiny",
) -> PatchCache:
    """Write images [S, C, *size] in [0, 1] and labels uint8 [S, *size] as cases case-000, case-001, ..."""
    root.mkdir(parents=True, exist_ok=True)
    size, dims = images.shape[2:], len(patch)
    if boxes is None:
        boxes = np.tile(np.array([*[0] * dims, *size], np.int32), (len(images), 1))
    table = []
    for number, (image, label, box) in enumerate(zip(images, labels, boxes, strict=True)):
        real = np.zeros(size, np.float32)
        real[tuple(slice(a, b) for a, b in zip(box[:dims], box[dims:], strict=True))] = 1
        share = patchify(real[None], patch).mean(-1)
        table.append(
            {
                "sample": 0,
                "case": f"case-{number:03d}",
                "patches": patchify(image * real, patch).astype("<f2").tobytes(),
                "real": np.packbits(patchify(real[None] > 0, patch)).tobytes(),
                "valid": np.round(255 * share).astype(np.uint8).tobytes(),
                "label": patchify(label[None], patch).tobytes(),
                "frame": box.tolist(),
                "lesion": int((label > 0).sum()),
                "geometry": "{}",
            }
        )
    names = [row["case"] for row in table]
    groups = [len(table[i : i + rows]) for i in range(0, len(table), rows)]
    schema = patch_schema(dims)
    with pq.ParquetWriter(root / "patches-00000.parquet", schema) as writer:
        for start in range(0, len(table), rows):
            writer.write_table(pa.Table.from_pylist(table[start : start + rows], schema))
        writer.add_key_value_metadata({FINGERPRINT_KEY: fingerprint.encode()})
    files = {n: {f"m{channel}": f"{n}/m{channel}" for channel in range(images.shape[1])} for n in names}
    known = [{"case": n, "group": n, "labelled": True, "images": json.dumps(files[n])} for n in names]
    pq.write_table(pa.Table.from_pylist([dict.fromkeys(CASES.names) | row for row in known], CASES), root / CASES_FILE)
    inputs = [
        {"case": n, "file": file, "digest": sha256(image[channel].tobytes()).hexdigest()}
        for n, image in zip(names, images, strict=True)
        for channel, file in enumerate(files[n].values())
    ]
    pq.write_table(pa.Table.from_pylist(inputs, INPUTS), root / INPUTS_FILE)
    pq.write_table(samples_of(str(root), ["patches-00000.parquet"]), root / SAMPLES_FILE)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "dims": dims,
        "channels": images.shape[1],
        "size": list(size),
        "patch": list(patch),
        "shards": [{"file": "patches-00000.parquet", "rows": len(table), "row_groups": groups}],
    }
    (root / MANIFEST).write_text(json.dumps(manifest))
    return PatchCache.open(str(root))


def blobs(
    seed: int, count: int, size: Sequence[int], channels: int = 1, bright: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images [count, C, *size] with one round lesion each, and its label."""
    rng = np.random.default_rng(seed)
    axes = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"))
    centres = np.stack([rng.uniform(0.35, 0.65, count) * n for n in size], 1)
    apart = axes[None] - centres.reshape(count, len(size), *[1] * len(size))
    label = ((apart**2).sum(1) < (0.17 * min(size)) ** 2).astype(np.uint8)
    images = 0.55 + (0.35 if bright else -0.35) * label[:, None] + rng.normal(0, 0.08, (count, channels, *size))
    return images.clip(0, 1).astype(np.float32), label


def box_with_padding(size: Sequence[int], padding: int) -> np.ndarray:
    """A real area that leaves `padding` pixels out along the first axis, on both sides: int32 [2d]."""
    starts = [padding, *[0] * (len(size) - 1)]
    return np.array([*starts, size[0] - padding, *size[1:]], np.int32)
