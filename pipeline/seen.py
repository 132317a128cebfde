"""Which images a training saw, so that no test case is among them where another run's weights are used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from pipeline.checkpoint import read_meta
from preprocessing.cache import PatchCache
from preprocessing.case import Case
from preprocessing.errors import RunError

Seen = dict[str, list[str]]  # by what a file is known by: its content, or a store's own checksum

_LENGTH = 16  # hexadecimal digits that are kept: 64 bits tell millions of images apart
_SHOWN = 3


def seen(digests: Iterable[str]) -> Seen:
    """What a checkpoint says of the images that it was made with.

    Args:
        digests: of their files, see `preprocessing.fingerprint.digest_files`.
    """
    found: dict[str, set[str]] = {}
    for digest in digests:
        found.setdefault(_kind(digest), set()).add(hashlib.sha256(digest.encode()).hexdigest()[:_LENGTH])
    return {kind: sorted(marks) for kind, marks in sorted(found.items())}


def seen_cases(known: Seen | None, digests: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The cases of which an image was seen, wherever it lies and whatever it is called; None where nothing tells.

    Args:
        known: of a checkpoint; None where it does not say.
        digests: of the cases' image files, by case.
    """
    own = {case: seen(files) for case, files in digests.items()}
    if known is None or (own and not any(kind in known for marks in own.values() for kind in marks)):
        return None
    sets = {kind: set(marks) for kind, marks in known.items()}
    return [
        case for case, marks in own.items() if any(sets.get(kind, set()) & set(found) for kind, found in marks.items())
    ]


def images_of(cache: PatchCache, cases: Iterable[str]) -> Seen:
    """`seen` of the images of some cases of a cache."""
    return seen(digest for digests in cache.image_digests(cases).values() for digest in digests)


def check_unseen(encoder: str, cache: PatchCache, test: Sequence[str]) -> None:
    """That the pretraining of `finetune.encoder` saw none of the test cases; said where nothing tells.

    Args:
        encoder: folder or URI of its checkpoint.
        cache: of this run, whose test cases these are.
        test: their ids.

    Raises:
        RunError: it saw some, or there is no such checkpoint.
    """
    peeked = seen_cases(read_meta(encoder, "encoder").get("seen"), cache.image_digests(test))
    if peeked is None:
        print(f"finetune.encoder = {encoder}: nothing tells whether it saw test cases in its pretraining", flush=True)
    elif peeked:
        raise RunError(
            f"finetune.encoder = {encoder}: its pretraining saw {len(peeked)} of the {len(test)} test cases "
            f"({named(peeked)}). Start from the encoder of a run with the same run.seed, data.fold and data.splits, or "
            "set pretrain.include_test=true, by which the report is marked"
        )


def unseen_cases(segmenter: str, cases: Sequence[Case], digests: Mapping[str, str]) -> list[Case]:
    """The cases of groups that a segmenter's training did not see and no threshold was chosen on; the others are told,
    and so are those that its pretraining saw.

    Args:
        segmenter: folder or URI of its checkpoint.
        cases: of a data set to judge it on.
        digests: of their files.

    Raises:
        RunError: it saw all of them, or there is no such checkpoint.
    """
    trained = read_meta(segmenter, "segmenter")["trained"]
    images = {case.id: [digests[file] for file in case.images.values()] for case in cases}
    if shown := seen_cases(trained.get("pretrained_on"), images):
        print(f"evaluate: its pretraining saw {len(shown)} of these cases ({named(shown)}), without labels", flush=True)
    saw = seen_cases(trained.get("seen"), images)
    if saw:  # another image of the same patient is no test either
        groups = {case.group for case in cases if case.id in set(saw)}
        saw = [case.id for case in cases if case.group in groups]
    if saw is None:
        print(f"checkpoint = {segmenter}: nothing tells whether it was trained on some of these cases", flush=True)
    elif saw:
        told = f"{len(saw)} of {len(cases)} labelled cases ({named(saw)})"
        if len(saw) == len(cases):
            raise RunError(f"checkpoint = {segmenter}: was trained, or its threshold chosen, on {told}: none is left")
        print(f"evaluate: {told} left out, since the segmenter was trained or its threshold chosen on them", flush=True)
    return [case for case in cases if case.id not in set(saw or ())]


def named(cases: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else ""
    return ", ".join(cases[:_SHOWN]) + more


def _kind(digest: str) -> str:
    name, _, checksum = digest.partition(" ")
    return name if checksum else "content"
