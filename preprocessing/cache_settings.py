"""Settings of the patch cache: geometry, intensities, which parts of a volume become samples, and storage."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from preprocessing.geometry.patchify import grid_of
from preprocessing.intensity import IntensitySettings
from preprocessing.settings import NO_INFLUENCE, Settings


class CacheSettings(Settings):
    """Canvas, patches, intensities, and how they are stored."""

    dir: str = Field(
        "", description="Folder or URI of the patch cache; empty means <run.dir>/cache.", json_schema_extra=NO_INFLUENCE
    )
    size: tuple[int, ...] = Field((128, 128), description="Canvas in pixels, one number an axis.")
    patch: tuple[int, ...] = Field((8, 8), description="Patch in pixels, one number an axis; must divide the canvas.")
    intensity: dict[str, IntensitySettings] = Field(
        {},
        description="How a modality's values become 0 to 1, by its name; others go by their percentiles.",
    )
    spacing: tuple[float, ...] = Field(
        (), description="Voxels of a volume in mm (head to feet, front to back, right to left); empty: the file's own."
    )
    reference: str = Field("", description="Modality whose grid the others are put on; empty: the first.")
    extent: Literal["reference", "common"] = Field(
        "reference", description="Field of view: the reference's own, or what all modalities have in common."
    )
    foreground: Literal["none", "mri", "ct"] = Field(
        "none",
        description="What of a volume counts and is cropped to: everything, voxels that are not 0 in some modality "
        "(mri: skull-stripped), or the body (ct: the reference is CT).",
    )
    label_values: tuple[int, ...] = Field(
        (), description="Class ids that a volume's label may hold beside 0, else the case is rejected; empty: any."
    )
    axis: int = Field(
        0, ge=0, le=2, description="Axis that slices of a volume are taken along where data.dims is 2: 0 is axial."
    )
    overlap: float = Field(
        0.25, ge=0, lt=1, description="Share by which neighbouring crops of a volume overlap, at least."
    )
    most_samples: int = Field(0, ge=0, description="Slices or crops of one case at most, evenly spread; 0: all.")
    least_foreground: float = Field(
        0.1,
        ge=0,
        le=1,
        description="A slice or crop with a smaller share of foreground counts as empty.",
    )
    empty: float = Field(0.0, ge=0, le=1, description="Most empty slices or crops, as a share of a case's others.")
    max_rejected: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of cases that may be rejected before a run stops.",
        json_schema_extra=NO_INFLUENCE,
    )
    row_group_kb: int = Field(1024, ge=1, description="Uncompressed size of a block, the unit of reading, in KiB.")
    shard_mb: int = Field(
        64, ge=1, description="Uncompressed size of a Parquet file at most, in MiB; of volumes it holds four cases."
    )
    compression: int = Field(
        3, ge=1, le=22, description="Level of the zstd compression.", json_schema_extra=NO_INFLUENCE
    )

    @model_validator(mode="after")
    def _consistent(self) -> CacheSettings:
        if len(self.size) != len(self.patch) or len(self.size) not in (2, 3):
            raise ValueError(
                f"size {list(self.size)} and patch {list(self.patch)} must both have 2 or both have 3 numbers"
            )
        if min(*self.size, *self.patch) < 1:
            raise ValueError(f"size {list(self.size)} and patch {list(self.patch)} must be positive")
        if any(s % p for s, p in zip(self.size, self.patch, strict=True)):
            lower = [max(p, s - s % p) for s, p in zip(self.size, self.patch, strict=True)]
            upper = [-(-s // p) * p for s, p in zip(self.size, self.patch, strict=True)]
            choices = " or ".join(str(c) for c in ([lower] if lower == upper else [lower, upper]))
            raise ValueError(
                f"patch {list(self.patch)} does not divide size {list(self.size)}; the nearest sizes that do: {choices}"
            )
        if len(self.spacing) not in (0, 3) or min(self.spacing, default=1) <= 0:
            raise ValueError(f"spacing {list(self.spacing)} must be 3 positive numbers in mm, or none")
        return self

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each axis."""
        return grid_of(self.size, self.patch)

    @property
    def pixel_spacing(self) -> tuple[float, ...]:
        """mm of a sample's pixels along its axes (a slice has the two within it); all 1 where no spacing is set."""
        if not self.spacing:
            return (1.0,) * len(self.size)
        return tuple(mm for axis, mm in enumerate(self.spacing) if len(self.size) == 3 or axis != self.axis)

    def sample_bytes(self, channels: int) -> int:
        """Uncompressed bytes of one labelled sample."""
        return math.prod(self.size) * (2 * channels + 1)
