"""What a researcher should look at first: numbers of a run that are out of order, each said in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.data import ReportData

_FEW_TESTED = 10


def attention(data: ReportData) -> list[str]:
    """Sentences to read before the rest of the report; empty when nothing stands out."""
    return [*_inputs(data), *_selection(data), *_pretraining(data), *_test(data)]


def _inputs(data: ReportData) -> list[str]:
    notes = []
    if (data.metrics.get("data") or {}).get("phantoms"):
        notes.append("There are phantoms among the scans: this run shows that it works, its figures are no evidence.")
    if data.setting("pretrain.include_test"):
        notes.append("Pretraining also read the test images (pretrain.include_test), so this is no clean test.")
    counts = data.metrics.get("data", {})
    cases, rejected = counts.get("cases") or 0, counts.get("rejected") or 0
    if cases and rejected / cases > 0.02:
        notes.append(f"{rejected} of {cases} cases were rejected ({rejected / cases:.0%}); see What went in.")
    return notes


def _selection(data: ReportData) -> list[str]:
    selection = data.metrics.get("selection", {})
    rate, chance, plain = (
        (selection.get(name) or {}).get("0.25") for name in ("lesion_hit_rate", "random", "no_clusters")
    )
    if rate is None:
        return []
    if chance is not None and rate <= chance + 0.02:
        return [f"The selection finds lesions no better than chance ({rate:.2f} against {chance:.2f} at 25 %)."]
    if plain is not None and rate < plain:
        return [f"The clusters do worse than the ranking without them ({rate:.2f} against {plain:.2f} at 25 %)."]
    return []


def _pretraining(data: ReportData) -> list[str]:
    if not data.pretrain:
        return []
    notes = []
    first, last = data.pretrain[0], data.pretrain[-1]
    if len(data.pretrain) > 1 and last["loss"] > 0.95 * first["loss"]:
        notes.append(f"The pretraining loss hardly fell ({first['loss']:.3g} to {last['loss']:.3g}).")
    notes += _starved(data.pretrain[3 * len(data.pretrain) // 4 :])
    waited = (data.metrics.get("pretrain") or {}).get("data_wait_fraction")
    if waited is not None and waited > 0.05:
        notes.append(f"Training waited for data {waited:.0%} of the time; raise loader.readers or loader.prefetch.")
    probes = [(record["probe_dsc"], record["epoch"]) for record in data.pretrain if "probe_dsc" in record]
    if len(probes) > 2 and max(probes)[1] == probes[-1][1] and max(probes)[0] - probes[-2][0] > 0.01:
        notes.append("The probe's DSC was still rising at the end: a longer pretraining may help.")
    return notes


def _starved(late: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether the encoder hardly saw lesions in the last quarter, in which a schedule masks most."""
    records = [record for record in late if record.get("lesion_seen") is not None]
    if not records:
        return []
    seen = sum(record["lesion_seen"] for record in records) / len(records)
    visible = sum(1 - record["masked"] for record in records) / len(records)
    if seen >= visible / 3:
        return []
    return [
        f"Towards the end the encoder saw {seen:.1%} of the lesion patches where random masks would have shown "
        f"{visible:.1%}; lower the end of mask.strength, or raise mask.random_share."
    ]


def _test(data: ReportData) -> list[str]:
    notes = []
    test = (data.metrics.get("segmentation") or {}).get("test") or {}
    false, free = test.get("false_positive_rate"), test.get("lesion_free_cases")
    if false is not None and false > 0.5:
        notes.append(f"The segmenter finds a lesion in {false:.0%} of the {free} lesion-free test cases.")
    if rejected := test.get("rejected"):
        notes.append(f"{rejected} test cases could not be judged and are in no figure: see evaluate/rejected.csv.")
    tested = test.get("cases")
    if tested is not None and tested < _FEW_TESTED:
        notes.append(f"Only {tested} test cases hold a lesion: too few to judge a segmenter by.")
    scores = data.scored["dsc"].dropna() if "dsc" in data.scored else []
    missed = sum(score < 0.05 for score in scores)
    if len(scores) and missed / len(scores) > 0.1:
        notes.append(f"{missed} of {len(scores)} test lesions were missed altogether (DSC below .05).")
    return notes
