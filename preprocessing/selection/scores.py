"""Lesion scores of all patches of a cache: a side table for each rule, with a fingerprint of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
from upath import UPath

from preprocessing.cache import PatchCache, read_table
from preprocessing.errors import RunError
from preprocessing.fingerprint import digest_of
from preprocessing.selection.feature_graph import feature_table
from preprocessing.selection.feature_table import FeatureTable
from preprocessing.selection.selection import CodeBooks, SelectionSettings, fit_selection, score_patches
from preprocessing.storage import make_folder, replacing, write_table, write_text

VERSION = 2
_META, _SCORES, _BOOKS = "meta.json", "scores.parquet", "codebooks.safetensors"


@dataclass(frozen=True)
class ScoreTable:
    """Scores of S samples of N patches, in the order of the cache's samples.

    Attributes:
        root: the table's own folder.
        fingerprint: of the cache, the training cases, the settings and the seed.
        scores: float32 [S, N], higher is more lesion-like; mean 0 and standard deviation 1 over the candidate
            patches of each case, 0 elsewhere.
        clusters: int16 [S, N], cluster in the first code book; -1 elsewhere.
        meta: settings, seed, fingerprints of cache and features.
    """

    root: str
    fingerprint: str
    scores: np.ndarray
    clusters: np.ndarray
    meta: dict[str, Any]

    @classmethod
    def open(cls, root: str) -> ScoreTable:
        """Open the table in a folder.

        Raises:
            RunError: there is no complete table, or it is of another version.
        """
        meta = _read_meta(root)
        if meta is None:
            raise RunError(f"no complete table of lesion scores at {root}; run jobs.preprocess first")
        if meta["version"] != VERSION:
            raise RunError(
                f"the lesion scores at {root} have version {meta['version']}, not {VERSION}; delete that folder"
            )
        table = read_table(UPath(root) / _SCORES)
        scores, clusters = (
            np.frombuffer(b"".join(table[name].to_pylist()), dtype).reshape(len(table), meta["tokens"])
            for name, dtype in (("scores", np.dtype(np.float32)), ("clusters", np.dtype(np.int16)))
        )
        return cls(root, meta["fingerprint"], scores, clusters, meta)


def score_cache(
    cache: PatchCache, train_cases: Sequence[str], settings: SelectionSettings, out_dir: str, seed: int
) -> ScoreTable:
    """Score all patches of a cache, or open the scores where they were made from the same inputs.

    Ray must have been initialised by the caller; it is used only where features are not there yet.

    Args:
        train_cases: all that anything is fitted on.
        out_dir: folder or URI; the table is in <rule>-<fingerprint>, the features beside it.

    Raises:
        RunError: there is nothing to fit on, or polarity does not fit the channels.
    """
    cases = sorted(set(train_cases) & set(cache.samples["case"]))
    polarity = settings.polarities(cache.channels)
    fingerprint = digest_of([VERSION, cache.fingerprint, cases, settings.score_content(), seed])
    root = str(UPath(out_dir) / f"{settings.rule}-{fingerprint[:12]}")
    standing = _read_meta(root)
    if standing is not None and standing["fingerprint"] == fingerprint:
        return ScoreTable.open(root)
    table = feature_table(cache, cases, settings.columns(cache.modalities), polarity, out_dir)
    books = fit_selection(table, cache.sample_indices(cases), settings, seed)
    scores, clusters = score_patches(books, table, settings)
    meta = {
        "version": VERSION,
        "fingerprint": fingerprint,
        "cache": cache.fingerprint,
        "features": table.fingerprint,
        "tokens": cache.tokens,
        "settings": settings.score_content(),
        "seed": seed,
        "training_cases": len(cases),
    }
    _write(root, cache, scores, clusters, books, meta)
    return ScoreTable(root, fingerprint, scores, clusters, meta)


def scores_from_tokens(
    tokens: np.ndarray, table: FeatureTable, train: np.ndarray, settings: SelectionSettings, seed: int
) -> np.ndarray:
    """Scores float32 [S, N] from clusters of the encoder's own tokens.

    Args:
        tokens: [S, N, F] of every sample of the cache.
        table: the features that the rule ranks the clusters by, see `open_features`.
        train: int64, samples to fit on.
    """
    books = fit_selection(table, train, settings, seed, tokens)
    return score_patches(books, table, settings, tokens)[0]


def open_features(
    cache: PatchCache, train_cases: Sequence[str], settings: SelectionSettings, out_dir: str
) -> FeatureTable:
    """The features that `score_cache` computed with the same arguments."""
    return feature_table(
        cache, train_cases, settings.columns(cache.modalities), settings.polarities(cache.channels), out_dir
    )


def _read_meta(root: str) -> dict[str, Any] | None:
    try:
        return json.loads((UPath(root) / _META).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _write(
    root: str, cache: PatchCache, scores: np.ndarray, clusters: np.ndarray, books: CodeBooks, meta: dict[str, Any]
) -> None:
    folder = UPath(root)
    make_folder(folder)
    columns = {
        "sample": pa.array(cache.samples["sample"], pa.int32()),
        "case": pa.array(cache.samples["case"], pa.string()),
        "scores": pa.array([row.tobytes() for row in scores], pa.binary()),
        "clusters": pa.array([row.tobytes() for row in clusters], pa.binary()),
    }
    write_table(folder / _SCORES, pa.table(columns))
    with replacing(folder / _BOOKS) as temporary:
        temporary.write_bytes(safetensors.torch.save(books.tensors()))
    write_text(folder / _META, json.dumps(meta, indent=1))  # last: it says that the table is whole
