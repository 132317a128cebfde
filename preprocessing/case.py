"""A case of a data set, and the reason why one was left out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One image (or the modalities of one scan) with the masks that belong to it.

    Attributes:
        id: unique within the data set, e.g. "benign (12)".
        group: patient or other unit that must not straddle a split; the id when nothing is known.
        stratum: class to stratify by, "" when unknown.
        images: modality -> path or URI, in modality order.
        labels: mask files, their union is the label; () means unlabelled.
        split: "train", "val" or "test" where the data set says so, else "".
    """

    id: str
    group: str
    stratum: str
    images: dict[str, str]
    labels: tuple[str, ...]
    split: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of the case, images first."""
        return (*self.images.values(), *self.labels)

    def to_json(self) -> str:
        """The case as one line of text, for transport through Ray Data."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Inverse of `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**{**fields, "labels": tuple(fields["labels"])})


@dataclass(frozen=True)
class Rejection:
    """A case that is left out: an outcome that is counted and reported, not an exception."""

    case: str
    file: str
    reason: str


class BadFile(Exception):
    """A file that cannot be used. Becomes a `Rejection` where the case is known."""

    def __init__(self, file: str, reason: str) -> None:
        self.file, self.reason = file, reason
        super().__init__(f"{file}: {reason}")
