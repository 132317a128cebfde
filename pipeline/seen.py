"""Which images an encoder's pretraining saw, so that no test case is among them where another run's encoder is used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.checkpoint import read_meta
from preprocessing.cache import PatchCache
from preprocessing.errors import RunError

_LENGTH = 16  # of a digest that is kept: 64 bits tell millions of images apart
_SHOWN = 3


def images_of(cache: PatchCache, cases: Iterable[str]) -> list[str]:
    """What the cases' image files are known by, wherever they lie, whatever they are called; for an encoder's card."""
    found = cache.image_digests(cases).values()
    return sorted({digest[:_LENGTH] for digests in found for digest in digests})


def check_unseen(encoder: str, cache: PatchCache, test: Sequence[str]) -> None:
    """That the pretraining of `finetune.encoder` saw none of the test cases; said where its card tells nothing.

    Args:
        encoder: folder or URI of its checkpoint.
        cache: of this run, whose test cases these are.
        test: their ids.

    Raises:
        RunError: it saw some, or there is no such checkpoint.
    """
    seen = read_meta(encoder, "encoder").get("seen")
    if seen is None:
        print(
            f"finetune.encoder = {encoder}: does not say which images it saw; test cases may be among them", flush=True
        )
        return
    known = set(seen)
    peeked = [case for case, own in cache.image_digests(test).items() if known & {digest[:_LENGTH] for digest in own}]
    if peeked:
        more = f" and {len(peeked) - _SHOWN} more" if len(peeked) > _SHOWN else ""
        raise RunError(
            f"finetune.encoder = {encoder}: its pretraining saw {len(peeked)} of the {len(test)} test cases "
            f"({', '.join(peeked[:_SHOWN])}{more}). Start from the encoder of a run with the same run.seed, data.fold "
            "and data.splits, or set pretrain.include_test=true, by which the report is marked"
        )
