"""Near-duplicate images: the same view taken, saved or cropped twice. A split that parts them leaks.

Candidates are pairs whose perceptual hashes (pHash, 256 bits) differ in few bits; a pair counts when the detail of
the two thumbnails, what is left after subtracting a blurred copy, correlates as well. The brightness that all
images of a kind share (bright on top, dark below) is thereby left out. On BUSI's 585 images every pair found with
the default thresholds was looked at: frames of one sequence, annotated copies and slight crops, no two patients;
unrelated pairs stay below a correlation of .53. Mirrored copies were looked for and there were none, so that
mirroring is not compared; strong crops are not found.

Volumes are another matter: every head looks like every other, and what marks a copy is that it is the same scan. Their
middle slices must all but agree (VOLUMES); patients are told apart by their names.
"""

from __future__ import annotations

from collections.abc import Sequence

import imagehash
import numpy as np
from PIL import Image
from pydantic import Field
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from preprocessing.geometry.letterbox import resample
from preprocessing.settings import Settings

HASH_SIDE, THUMBNAIL_SIDE = 16, 32
_BLUR = 3.0  # pixels of the thumbnail
_ROWS = 1024  # cases compared with all others at a time


class DuplicateSettings(Settings):
    """When two images count as near-duplicates and must not straddle a split."""

    duplicate_threshold: float = Field(
        0.4, ge=0, le=0.5, description="Share of perceptual-hash bits in which near-duplicates differ at most."
    )
    duplicate_correlation: float = Field(
        0.55, ge=0, le=1, description="Correlation that the detail of near-duplicates' thumbnails has at least."
    )


VOLUMES = DuplicateSettings(duplicate_threshold=0.05, duplicate_correlation=0.98)


def signature(image: np.ndarray) -> tuple[bytes, bytes]:
    """Hash (32 bytes) and thumbnail (uint8, 32 x 32) of the first channel.

    Args:
        image: float32 [C, *size] within [0, 1]; of a volume the middle slice of the first axis is taken.
    """
    plane = image[0]
    while plane.ndim > 2:
        plane = plane[plane.shape[0] // 2]
    grey = np.round(255 * plane).astype(np.uint8)
    bits = imagehash.phash(Image.fromarray(grey), hash_size=HASH_SIDE).hash
    thumbnail = np.round(resample(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE))).astype(np.uint8)
    return np.packbits(bits).tobytes(), thumbnail.tobytes()


def find_pairs(signatures: Sequence[tuple[bytes, bytes]], settings: DuplicateSettings) -> np.ndarray:
    """Pairs of near-duplicates, int64 [n, 2] with first < second, in order."""
    if not signatures:
        return np.zeros((0, 2), np.int64)
    hashes = np.stack([np.frombuffer(phash, np.uint8) for phash, _ in signatures])
    bits = np.unpackbits(hashes, axis=1).astype(np.float32)
    ones = bits.sum(axis=1)
    detail = _detail(np.stack([np.frombuffer(thumbnail, np.uint8) for _, thumbnail in signatures]))
    found = []
    for start in range(0, len(bits), _ROWS):
        rows = bits[start : start + _ROWS]
        differing = ones[start : start + _ROWS, None] + ones - 2 * rows @ bits.T
        pairs = np.argwhere(differing <= settings.duplicate_threshold * bits.shape[1])
        pairs[:, 0] += start
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        alike = np.einsum("ij,ij->i", detail[pairs[:, 0]], detail[pairs[:, 1]])
        found.append(pairs[alike >= settings.duplicate_correlation - 1e-6])
    return np.concatenate(found)


def merge_groups(groups: Sequence[str], pairs: np.ndarray) -> list[str]:
    """The group of each case when the groups of near-duplicates become one, named after its first member."""
    names, group = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    links = group[pairs]
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(len(names), len(names)))
    _, component = connected_components(graph, directed=False)
    first = dict(zip(component[::-1], names[::-1], strict=True))
    return [first[component[g]] for g in group]


def _detail(thumbnails: np.ndarray) -> np.ndarray:
    """uint8 [n, side * side] -> float32 of unit length and mean 0, so that a dot product is a correlation."""
    images = thumbnails.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE).astype(np.float32)
    detail = (images - gaussian_filter(images, (0, _BLUR, _BLUR))).reshape(len(images), -1)
    detail -= detail.mean(axis=1, keepdims=True)
    return detail / np.maximum(np.linalg.norm(detail, axis=1, keepdims=True), 1e-6)
