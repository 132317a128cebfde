"""The comparison table with its plots as one self-contained page, and the plots as PNG files."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy
from upath import UPath

from pipeline.report.comparison import Place
from pipeline.report.figures import GREEN, GREY, RED, STYLE
from pipeline.report.statistics import Interval
from preprocessing.storage import make_folder, write_text

_PLOTS = {"differences", "dsc_over_flops", "dsc_over_labels"}
_MARKERS = "osD^vP*X<>"  # as many as colours; further arms are hollow
_APART = 5.0  # points between arms that would hide each other
_CLOSE = 1.3  # ratio of FLOPs below which they would


def write_page(
    root: UPath,
    found: pd.DataFrame,
    lines: pd.DataFrame,
    intervals: Mapping[Place, Interval],
    reference: str,
    note: str,
) -> None:
    """Write benchmark.html and, in plots, those of the plots for which there is something to show.

    Args:
        root: folder of the table.
        found: the summary in numbers, one row an arm and share of labels.
        lines: the same as text.
        intervals: the differences in DSC to the reference arm; without any there is no plot of them.
        reference: that arm.
        note: what the table can tell, and what it lacks, in sentences.
    """
    plots = {"differences": forest(intervals, reference)} if intervals else {}
    if found["pretrain_flops"].notna().any():  # what an encoder from elsewhere has cost is not known
        plots["dsc_over_flops"] = over_flops(found)
    if found["labels"].nunique() > 1:  # a line needs two points
        plots["dsc_over_labels"] = over_labels(found)
    make_folder(root / "plots")
    for old in _PLOTS - plots.keys():  # of a table with other arms or shares
        (root / "plots" / f"{old}.png").unlink(missing_ok=True)
    for name, png in plots.items():
        (root / "plots" / f"{name}.png").write_bytes(png)
    loader = PackageLoader("pipeline.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    inline = [Markup("data:image/png;base64," + b64encode(png).decode("ascii")) for png in plots.values()]
    page = environment.get_template("benchmark.html").render(
        columns=list(lines), rows=lines.to_numpy().tolist(), plots=inline, planned=note
    )
    write_text(root / "benchmark.html", page)


def forest(intervals: Mapping[Place, Interval], reference: str) -> bytes:
    """Difference in DSC to the reference with its interval, a row an arm and share of labels. PNG."""
    shares = {labels for _, labels in intervals}
    names = [arm if len(shares) == 1 else f"{arm}, {labels:.0%}" for arm, labels in intervals]
    mean, low, high = np.array([(i.mean, i.low, i.high) for i in intervals.values()]).T
    known = np.isfinite(low) & np.isfinite(high)  # where hardly a case differs there is no interval
    bars = np.where(known, [mean - low, high - mean], 0.0)
    colours = [RED if above < 0 else GREEN if below > 0 else GREY for below, above in zip(low, high, strict=True)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.8 + 0.24 * len(names)), layout="constrained")
        axis = figure.subplots()
        rows = np.arange(len(names))
        axis.axvline(0, color="black", linewidth=0.8)
        axis.hlines(rows, mean - bars[0], mean + bars[1], colors=colours)
        axis.scatter(mean, rows, c=colours, s=22, zorder=3)
        axis.set(yticks=rows, yticklabels=names, xlabel=f"test DSC less that of {reference}")
        axis.set_ylim(len(names) - 0.5, -0.5)  # the first on top, and room around few of them
        return _png(figure)


def over_labels(found: pd.DataFrame) -> bytes:
    """Mean DSC over the share of labels, a line an arm; bars are the summary's standard deviations. PNG."""
    return _plot(found, "labels", "share of labels", compute=False)


def over_flops(found: pd.DataFrame) -> bytes:
    """Mean DSC over the FLOPs of pretraining, a point an arm and share of labels, which stands beside it. PNG."""
    return _plot(found, "pretrain_flops", "FLOPs of pretraining", compute=True)


def _plot(found: pd.DataFrame, column: str, label: str, compute: bool) -> bytes:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.8), layout="constrained")
        axis = figure.subplots()
        arms = {str(arm): part for arm, part in found[found[column].notna()].groupby("arm", sort=False)}
        offsets = _side_by_side({arm: float(part[column].mean()) for arm, part in arms.items()}, compute)
        for number, (arm, part) in enumerate(arms.items()):
            part = part.sort_values("labels")
            further, style = divmod(number, len(_MARKERS))
            x, y, bars = part[column], part["dsc"], part["dsc_sd"].fillna(0.0)
            axis.update_datalim(np.column_stack([np.tile(x, 2), np.concatenate([y - bars, y + bars])]))
            axis.errorbar(
                x,
                y,
                yerr=bars,
                marker=_MARKERS[(style + further) % len(_MARKERS)],
                linestyle="none" if compute else "-",
                color=f"C{style}",
                markerfacecolor="white" if further % 2 else f"C{style}",
                capsize=2,
                markersize=5,
                label=arm,
                transform=offset_copy(axis.transData, figure, x=offsets[arm], units="points"),
            )
            if compute and found["labels"].nunique() > 1:
                for place, share in zip(zip(x, y, strict=True), part["labels"], strict=True):
                    axis.annotate(f"{share:.0%}", place, (4, 3), textcoords="offset points", fontsize=6)
        if compute:
            positive = found.loc[found[column] > 0, column]
            # from scratch stands at 0, left of all others
            axis.set_xscale("symlog", linthresh=float(positive.min()) / 2 if len(positive) else 1.0)
        else:
            shares = sorted(found["labels"].unique())
            axis.set_xscale("log")
            axis.set_xticks(shares, [f"{share:.0%}" for share in shares])
            axis.minorticks_off()
        axis.autoscale_view()  # moved points do not count by themselves
        axis.set(xlabel=label, ylabel="test DSC")
        figure.legend(loc="outside right upper")  # a dozen arms would hide points within
        return _png(figure)


def _side_by_side(places: Mapping[str, float], compute: bool) -> dict[str, float]:
    """Points by which each arm is moved sideways, so that none hides another: those of about the same FLOPs."""
    together: list[list[str]] = []
    for arm in sorted(places, key=places.__getitem__) if compute else places:
        near = together and (not compute or places[arm] <= _CLOSE * places[together[-1][-1]])
        if near:
            together[-1].append(arm)
        else:
            together.append([arm])
    step = _APART if compute else _APART / 2
    return {arm: step * (n - (len(arms) - 1) / 2) for arms in together for n, arm in enumerate(arms)}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
