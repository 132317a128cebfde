"""Reading the patch cache: Parquet shards, a table of cases, and a manifest that is written last."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from preprocessing.errors import RunError
from preprocessing.geometry.patchify import grid_of
from preprocessing.object_store import fresh, is_local, open_parts, reaching, read_text
from preprocessing.schema import SAMPLES, SCHEMA_VERSION

MANIFEST, CASES_FILE, SAMPLES_FILE, REJECTED_FILE, INPUTS_FILE = (
    "manifest.json",
    "cases.parquet",
    "samples.parquet",
    "rejected.parquet",
    "inputs.parquet",
)
FINGERPRINT_KEY = b"fingerprint"
LOOKS = 16  # at a time: a store answers each question slowly, but many at once
CANDIDATE = 128  # least `valid` of a patch that may be masked and ranked: at most half of it is padding


@dataclass(frozen=True)
class Block:
    """One Parquet row group: the unit of reading."""

    file: str
    row_group: int
    rows: int


@dataclass
class PatchBatch:
    """Samples in memory; B samples of N tokens, P pixels a patch, D = channels * P, d axes.

    Attributes:
        patches: float16 [B, N, D], intensities in [0, 1].
        valid: uint8 [B, N], share of real pixels, 255 = all.
        label: uint8 [B, N, P], class ids; zeros where unlabelled.
        labelled: bool [B].
        real: uint8 [B, ceil(N * P / 8)], bits of the real pixels; see `unpack_real`.
        frame: int32 [B, 2d], where the image or body lies on the canvas: start_0.. start_d-1, stop_0.. stop_d-1.
        sample: int64 [B], index into the cache's samples.
    """

    patches: np.ndarray
    valid: np.ndarray
    label: np.ndarray
    labelled: np.ndarray
    real: np.ndarray
    frame: np.ndarray
    sample: np.ndarray

    def take(self, rows: np.ndarray) -> PatchBatch:
        """The given rows, in their order."""
        return PatchBatch(**{name: values[rows] for name, values in vars(self).items()})

    @staticmethod
    def concatenate(parts: Sequence[PatchBatch]) -> PatchBatch:
        """One batch after another."""
        return PatchBatch(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


class PatchCache:
    """A complete cache. Threads and processes may read it at the same time; it can be pickled.

    Attributes:
        root: folder or URI.
        manifest: what manifest.json says.
    """

    def __init__(self, root: str, manifest: dict[str, Any]) -> None:
        self.root, self.manifest = root, manifest
        self.fingerprint: str = manifest["fingerprint"]
        self.dims: int = manifest["dims"]
        self.channels: int = manifest["channels"]
        self.size: tuple[int, ...] = tuple(manifest["size"])
        self.patch: tuple[int, ...] = tuple(manifest["patch"])
        self.grid = grid_of(self.size, self.patch)
        self.tokens = math.prod(self.grid)
        self.blocks = [
            Block(shard["file"], number, rows)
            for shard in manifest["shards"]
            for number, rows in enumerate(shard["row_groups"])
        ]
        self._footers: dict[str, pq.FileMetaData] = {}

    @classmethod
    def open(cls, uri: str) -> PatchCache:
        """Open the cache at a path or URI.

        Raises:
            RunError: there is no complete cache, or it is of another schema version.
        """
        manifest = read_manifest(uri)
        if manifest is None:
            raise RunError(f"no complete patch cache at {uri} (no {MANIFEST}); run jobs.preprocess first")
        check_version(uri, manifest)
        return cls(uri, manifest)

    @cached_property
    def cases(self) -> pd.DataFrame:
        """cases.parquet, see `schema.CASES`."""
        return read_table(UPath(self.root) / CASES_FILE).to_pandas()

    @cached_property
    def rejected(self) -> pd.DataFrame:
        """rejected.parquet: case, file, reason."""
        return read_table(UPath(self.root) / REJECTED_FILE).to_pandas()

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row a sample: sample (number in its case), case, lesion (pixels), block, row (in the block), labelled."""
        table = read_table(UPath(self.root) / SAMPLES_FILE, ["sample", "case", "lesion"]).to_pandas()
        rows = np.array([block.rows for block in self.blocks])
        table["block"] = np.repeat(np.arange(len(rows)), rows)
        table["row"] = np.arange(len(table)) - self._starts[table["block"]]
        labelled = self.cases.set_index("case")["labelled"]
        table["labelled"] = table["case"].map(labelled).astype(bool)
        return table

    @cached_property
    def frames(self) -> np.ndarray:
        """int32 [S, 2d]: see `PatchBatch.frame`."""
        column = read_table(UPath(self.root) / SAMPLES_FILE, ["frame"])["frame"].combine_chunks()
        return column.flatten().to_numpy().reshape(len(column), 2 * self.dims)

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(json.loads(self.cases["images"].iloc[0]))

    @cached_property
    def case_numbers(self) -> np.ndarray:
        """int64 [S]: 0, 1, 2 ... for each sample's case, in order of their names."""
        return np.unique(self.samples["case"].to_numpy(str), return_inverse=True)[1].astype(np.int64)

    def sample_indices(self, cases: Iterable[str]) -> np.ndarray:
        """int64, ascending: the samples of the given cases."""
        return np.flatnonzero(self.samples["case"].isin(set(cases)).to_numpy())

    def image_digests(self, cases: Iterable[str]) -> dict[str, list[str]]:
        """Digests of the image files of the given cases, by case."""
        images = self.cases.set_index("case")["images"]
        return {case: [self.digests[file] for file in json.loads(images[case]).values()] for case in cases}

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digest of each file of the cases, labels too."""
        inputs = read_table(UPath(self.root) / INPUTS_FILE).to_pydict()
        return dict(zip(inputs["file"], inputs["digest"], strict=True))

    def read(self, samples: np.ndarray) -> PatchBatch:
        """The given samples, in their order; each block is read once."""
        samples = np.asarray(samples, np.int64)
        blocks = self.samples["block"].to_numpy()[samples]
        rows = self.samples["row"].to_numpy()[samples]
        if not len(samples):
            return self.read_block(0).take(samples)
        order = np.argsort(blocks, kind="stable")
        parts = [self.read_block(int(block)).take(rows[order][blocks[order] == block]) for block in np.unique(blocks)]
        return PatchBatch.concatenate(parts).take(np.argsort(order))

    def read_block(self, block: int) -> PatchBatch:
        """All samples of one block.

        Raises:
            RunError: the shard is missing, damaged, or was rewritten since the cache was opened.
        """
        where = self.blocks[block]
        table = self._row_group(where, ["patches", "real", "valid", "label", "frame"])
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        pixels = math.prod(self.patch)
        labelled = np.asarray(columns["label"].is_valid())
        label = np.zeros((where.rows, self.tokens, pixels), np.uint8)
        label[labelled] = _bytes(columns["label"].drop_null()).reshape(-1, self.tokens, pixels)
        return PatchBatch(
            patches=_bytes(columns["patches"]).view("<f2").reshape(where.rows, self.tokens, -1),
            valid=_bytes(columns["valid"]).reshape(where.rows, self.tokens),
            label=label,
            labelled=labelled,
            real=_bytes(columns["real"]).reshape(where.rows, -1),
            frame=columns["frame"].flatten().to_numpy().reshape(where.rows, -1),
            sample=np.arange(self._starts[block], self._starts[block] + where.rows),
        )

    def geometries(self, block: int) -> list[str]:
        """The geometry JSON of each sample of a block."""
        return self._row_group(self.blocks[block], ["geometry"]).column("geometry").to_pylist()

    @cached_property
    def _starts(self) -> np.ndarray:
        rows = [block.rows for block in self.blocks]
        return np.concatenate([[0], np.cumsum(rows)[:-1]]).astype(np.int64)

    def _row_group(self, block: Block, columns: list[str]) -> pa.Table:
        path = UPath(self.root) / block.file
        try:
            with reaching(self.root), open_parts(path) as stream:
                file = pq.ParquetFile(stream, metadata=self._footers.get(block.file))
                if block.file not in self._footers:
                    self._check(path, file.metadata)
                    self._footers[block.file] = file.metadata
                return file.read_row_group(block.row_group, columns=columns)
        except (FileNotFoundError, pa.ArrowInvalid, OSError) as error:
            raise RunError(
                f"{path} of the patch cache cannot be read ({error}); delete {UPath(self.root) / MANIFEST} "
                "and run the same command again to rebuild it"
            ) from error

    def _check(self, path: UPath, footer: pq.FileMetaData) -> None:
        if (footer.metadata or {}).get(FINGERPRINT_KEY, b"").decode() != self.fingerprint:
            raise RunError(f"{path} was rewritten while it was in use; run the same command again")


def unpack_real(packed: np.ndarray, tokens: int, pixels: int) -> np.ndarray:
    """bool [B, N, P] from `PatchBatch.real`, for N tokens of P pixels."""
    return np.unpackbits(packed, axis=1, count=tokens * pixels).reshape(len(packed), tokens, pixels).view(bool)


def samples_of(root: str, files: Sequence[str]) -> pa.Table:
    """The columns `schema.SAMPLES` of all rows of the shards, one at least."""
    with ThreadPoolExecutor(LOOKS) as pool:
        return pa.concat_tables(pool.map(lambda file: read_table(UPath(root) / file, list(SAMPLES)), files))


def read_manifest(uri: str) -> dict[str, Any] | None:
    """What manifest.json says, or None where there is none (or only half of one)."""
    try:
        return json.loads(read_text(UPath(uri) / MANIFEST))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def check_version(uri: str, manifest: dict[str, Any]) -> None:
    """Refuse a cache of another version.

    Raises:
        RunError: with the way out.
    """
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RunError(
            f"the patch cache at {uri} has schema version {version}, this program reads version {SCHEMA_VERSION}; "
            "delete that folder, or set cache.dir to another one, and run again"
        )


def read_table(path: UPath, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, or some columns of it, from a path or URI."""
    whole = columns is None or is_local(path)
    with reaching(str(path)), fresh(path).open("rb") if whole else open_parts(path) as stream:
        return pq.read_table(stream, columns=columns)


def _bytes(array: pa.BinaryArray) -> np.ndarray:
    """uint8, the values of a column without nulls end to end; a view, not a copy."""
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    values = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return values[offsets[0] : offsets[-1]]
