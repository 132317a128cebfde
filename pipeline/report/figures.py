"""The report's charts, as SVG. Each takes plain records and draws nothing that is not in them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.training.history import Record

# Okabe & Ito's colours, told apart by colour-blind readers too
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#8a8f98"
STYLE: Any = {
    "font.size": 8.5,
    "font.family": "sans-serif",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b8bcc4",
    "axes.grid": True,
    "grid.color": "#e8eaee",
    "axes.axisbelow": True,
    "xtick.color": "#555a63",
    "ytick.color": "#555a63",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "mps-ams",  # the same data gives the same file
}


def hit_rates(selection: dict[str, dict[str, float]]) -> bytes:
    """Share of the lesion patches among the first x % of the ranking, against the two rules it must beat."""
    lines = {"lesion_hit_rate": ("selection", BLUE), "no_clusters": ("no clusters", ORANGE), "random": ("random", GREY)}
    figure = _figure(4.6, 3.0)
    with mpl.rc_context(STYLE):
        axis = figure.subplots()
        for key, (label, colour) in lines.items():
            rates = selection.get(key) or {}
            x = sorted(rates, key=float)
            axis.plot([100 * float(s) for s in x], [rates[s] for s in x], "o-", color=colour, label=label, markersize=4)
        axis.set(xlabel="first … % of the candidate patches", ylabel="lesion patches among them", ylim=(0, 1.02))
        axis.set_title("Lesion hit rate")
        axis.legend(loc="lower right")
    return _svg(figure)


def pretraining(records: Sequence[Record]) -> bytes:
    """Loss, masking, lesion visibility, probe, noise and throughput over the samples seen."""
    figure = _figure(9.2, 4.9)
    with mpl.rc_context(STYLE):
        axes = figure.subplots(2, 3, sharex=True)
        loss, masking, lesion, probe, noise, speed = axes.flat
        _lines(loss, records, "Pretraining loss", {"loss": ("loss", BLUE)})
        _lines(masking, records, "Masking ratio and strength", {"ratio": ("ratio", BLUE), "masked": ("masked", GREY)})
        _second(masking, records, "strength", "strength", ORANGE)
        _lines(
            lesion,
            records,
            "Lesion patches",
            {
                "lesion_seen": ("seen by the encoder", GREEN),
                "hit_rate": ("masked (hit rate)", BLUE),
                "lesion_masked": ("share of what is masked", GREY),
            },
        )
        _lines(probe, records, "DSC of the probe", {"probe_dsc": ("probe", BLUE)}, marker="o")
        _lines(noise, records, "Gradient-noise scale", {"noise_scale": ("noise scale", BLUE)})
        _second(noise, records, "lr", "learning rate", GREY)
        _lines(speed, records, "Throughput", {"samples_per_second": ("samples/s", BLUE)})
        _second(speed, records, "data_wait_fraction", "share of time waiting", RED, least=0.2)
        masking.set_ylim(0, 1.02)
        lesion.set_ylim(0, 1.35)  # room for the legend
        lesion.set_yticks(np.linspace(0, 1, 6))
        speed.set_ylim(bottom=0)
        for axis in axes[1]:
            axis.set_xlabel("samples seen")
    return _svg(figure)


def finetuning(records: Sequence[Record]) -> bytes:
    """Training loss and validation DSC over the epochs."""
    figure = _figure(7.6, 2.7)
    with mpl.rc_context(STYLE):
        loss, dsc = figure.subplots(1, 2)
        _lines(loss, records, "Training loss", {"loss": ("loss", BLUE)}, x="epoch")
        _lines(dsc, records, "Validation DSC", {"val_dsc": ("DSC", BLUE)}, x="epoch")
        best = max((r for r in records if _number(r.get("val_dsc"))), key=lambda r: r["val_dsc"], default=None)
        if best:
            dsc.plot(best["epoch"], best["val_dsc"], "o", color=RED)
            dsc.set_title(f"Validation DSC (best {best['val_dsc']:.3f})")
        for axis in (loss, dsc):
            axis.set_xlabel("epoch")
    return _svg(figure)


def search(trials: pd.DataFrame, searched: Sequence[str]) -> bytes:
    """DSC of all trials, in their order, then against each searched number; reruns of the best stand out."""
    numbers = [name for name in searched if pd.api.types.is_numeric_dtype(trials[name]) and trials[name].nunique() > 1]
    numbers = numbers[:5]
    columns = min(3, 1 + len(numbers))
    rows = -(-(1 + len(numbers)) // columns)
    trials = trials.assign(rank=np.arange(1, len(trials) + 1))
    again = trials["stage"] == "finalists" if "stage" in trials else pd.Series(False, index=trials.index)
    figure = _figure(9.2 if columns > 1 else 4.6, 2.5 * rows)
    with mpl.rc_context(STYLE):
        axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
        for axis, name in zip(axes, ["rank", *numbers], strict=False):
            axis.plot(trials.loc[~again, name], trials.loc[~again, "dsc"], "o", color=BLUE, markersize=4)
            axis.plot(trials.loc[again, name], trials.loc[again, "dsc"], "D", color=ORANGE, markersize=5)
            axis.set_xlabel(name)
            if name != "rank" and 0 < 10 * trials[name].min() <= trials[name].max():
                axis.set_xscale("log")  # such as a learning rate
        axes[0].set_title("Validation DSC")
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis in axes[1 + len(numbers) :]:
            axis.set_visible(False)
    return _svg(figure)


def dsc_distribution(scored: pd.DataFrame) -> bytes:
    """Histogram of the test cases' DSC, and box and points by region (where there are several) or stratum."""
    scored = scored[scored["dsc"].notna()].fillna({"stratum": ""})
    several = "region" in scored and scored["region"].nunique() > 1
    by = "region" if several else "stratum"
    strata = list(scored.groupby(by, sort=True)) if by in scored else [("all", scored)]
    figure = _figure(7.6, max(2.4, 0.5 * len(strata) + 1.6))
    with mpl.rc_context(STYLE):
        histogram, boxes = figure.subplots(1, 2)
        histogram.hist(scored["dsc"], bins=np.linspace(0, 1, 21), color=BLUE, alpha=0.85, edgecolor="white")
        mean, median = scored["dsc"].mean(), scored["dsc"].median()
        histogram.axvline(mean, color=RED)
        histogram.axvline(median, color=RED, linestyle=":")
        histogram.set(
            xlabel="DSC", ylabel="test cases", xlim=(0, 1), title=f"Mean {mean:.3f}, median {median:.3f} (dotted)"
        )
        rng = np.random.default_rng(0)
        boxes.boxplot(
            [part["dsc"] for _, part in strata],
            orientation="horizontal",
            widths=0.5,
            showfliers=False,
            tick_labels=[f"{name or 'all'} ({len(part)})" for name, part in strata],
            medianprops={"color": RED},
            **{part: {"color": GREY} for part in ("boxprops", "whiskerprops", "capprops")},
        )
        for place, (_, part) in enumerate(strata, 1):
            jitter = rng.uniform(-0.14, 0.14, len(part))
            boxes.plot(part["dsc"], place + jitter, "o", color=BLUE, alpha=0.5, markersize=3)
        boxes.set(xlabel="DSC", title=f"By {by}", xlim=(-0.02, 1.02))
        boxes.grid(axis="y", visible=False)
    return _svg(figure)


def _lines(
    axis: Axes,
    records: Sequence[Record],
    title: str,
    names: dict[str, tuple[str, str]],
    x: str = "samples_seen",
    marker: str = "",
) -> None:
    axis.set_title(title)
    drawn = 0
    for name, (label, colour) in names.items():
        points = [(r[x], r[name]) for r in records if _number(r.get(name))]
        if points:
            # one point alone would be an invisible line
            axis.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker or "o" * (len(points) == 1))
            drawn += 1
    if drawn > 1:
        axis.legend(loc="upper left")
    if not drawn:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center", color=GREY)


def _second(axis: Axes, records: Sequence[Record], name: str, label: str, colour: str, least: float = 1e-9) -> None:
    """The same x axis with a scale of its own at the right, which reaches `least` at least."""
    points = [(r["samples_seen"], r[name]) for r in records if _number(r.get(name))]
    if not points:
        return
    twin = axis.twinx()
    twin.plot(*zip(*points, strict=True), color=colour, linestyle="--", linewidth=1.2)
    twin.set_ylabel(label, color=colour)
    twin.set_ylim(0, max(least, 1.15 * max(value for _, value in points)))
    twin.spines["right"].set_visible(True)
    twin.grid(visible=False)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and bool(np.isfinite(value))
