"""The columns of the patch cache. Whatever changes here, or in the meaning of a column, raises SCHEMA_VERSION."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 4


def patch_schema(dims: int) -> pa.Schema:
    """One row a sample; arrays are raw little-endian bytes, which read three times faster than Arrow lists.

    With N tokens of P pixels and C channels: patches float16 [N, C*P], real [N, P] as bits (numpy.packbits: pixels of
    the image, or of the body in it, not padding), valid uint8 [N] (share of real pixels, 255 = all), label uint8
    [N, P] class ids or null when unlabelled, frame int32 [2d] (start_0.. start_d-1, stop_0.. stop_d-1: where the whole
    image or body lies, in pixels of the canvas, and may reach beyond it), lesion: labelled pixels, sample: number
    within the case, geometry JSON: of an image or slice the fields of `letterbox.Geometry`, of a slice its axis and
    number besides; of a crop its corner, the voxel of the canvas at which the working grid begins. The geometry is a
    record of where a sample comes from; no program goes by it, since a prediction plans the way back from the scan.
    """
    return pa.schema(
        [
            pa.field("sample", pa.int32(), nullable=False),
            pa.field("case", pa.string(), nullable=False),
            pa.field("patches", pa.binary(), nullable=False),
            pa.field("real", pa.binary(), nullable=False),
            pa.field("valid", pa.binary(), nullable=False),
            pa.field("label", pa.binary()),
            pa.field("frame", pa.list_(pa.int32(), 2 * dims), nullable=False),
            pa.field("lesion", pa.int32(), nullable=False),
            pa.field("geometry", pa.string(), nullable=False),
        ]
    )


# the table of samples, in the order of the shards: a cache is opened without a look into each of thousands of them
SAMPLES = ("sample", "case", "lesion", "frame")

CASES = pa.schema(
    [
        ("case", pa.string()),
        ("group", pa.string()),  # near-duplicates merged
        ("stratum", pa.string()),
        ("split_given", pa.string()),  # "" where the data set does not say
        ("labelled", pa.bool_()),
        ("images", pa.string()),  # JSON, modality -> path
        ("labels", pa.string()),  # JSON list of paths
        ("source_size", pa.list_(pa.int32())),  # pixels
        # Labelled pixels of an image, or voxels of a volume's working grid, which may be coarser than the scan's own:
        # no measure of a lesion's size. It says only whether there is a lesion to learn from; 0 where unlabelled.
        ("lesion_pixels", pa.int64()),
        ("phash", pa.binary()),  # perceptual hash, see duplicates.py
        ("thumbnail", pa.binary()),  # uint8, see duplicates.py
    ]
)

REJECTED = pa.schema([("case", pa.string()), ("file", pa.string()), ("reason", pa.string())])

INPUTS = pa.schema([("case", pa.string()), ("file", pa.string()), ("digest", pa.string())])
