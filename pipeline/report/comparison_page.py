"""The comparison table with its plots as one self-contained page, and the plots as PNG files."""

from __future__ import annotations

import io
from base64 import b64encode

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from upath import UPath

from pipeline.report.figures import STYLE
from preprocessing.storage import make_folder, write_text

_MARKERS = "osD^vP*X<>hpd"  # not as many as colours, so that no two arms look the same


def write_page(root: UPath, table: pd.DataFrame, lines: pd.DataFrame, planned: str) -> None:
    """Write plots/dsc_over_labels.png, plots/dsc_over_flops.png and benchmark.html.

    Args:
        root: folder of the table.
        table: one row a cell.
        lines: the summary, one row an arm and share of labels.
        planned: what the table can tell, in a sentence.
    """
    plots = {"dsc_over_labels": over_labels(table), "dsc_over_flops": over_flops(table)}
    make_folder(root / "plots")
    for name, png in plots.items():
        (root / "plots" / f"{name}.png").write_bytes(png)
    loader = PackageLoader("pipeline.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    inline = [Markup("data:image/png;base64," + b64encode(png).decode("ascii")) for png in plots.values()]
    page = environment.get_template("benchmark.html").render(
        columns=list(lines), rows=lines.to_numpy().tolist(), plots=inline, planned=planned
    )
    write_text(root / "benchmark.html", page)


def over_labels(table: pd.DataFrame) -> bytes:
    """Mean DSC over the share of labels, a line an arm; bars are standard deviations over seeds and folds. PNG."""
    return _plot(table, "labels", "share of labels", logarithmic=False)


def over_flops(table: pd.DataFrame) -> bytes:
    """Mean DSC over the FLOPs of pretraining, a point an arm and share of labels. PNG."""
    return _plot(table, "pretrain_flops", "FLOPs of pretraining", logarithmic=True)


def _plot(table: pd.DataFrame, column: str, label: str, logarithmic: bool) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.8), layout="constrained")
        axis = figure.subplots()
        for number, (arm, part) in enumerate(table.groupby("arm", sort=False)):
            by_labels = part.groupby("labels")
            mean, spread = by_labels["dsc"].mean(), by_labels["dsc"].std().fillna(0.0)
            marker, line = _MARKERS[number % len(_MARKERS)], "none" if logarithmic else "-"
            x = by_labels[column].mean()
            axis.errorbar(x, mean, yerr=spread, marker=marker, linestyle=line, capsize=3, markersize=5, label=str(arm))
        if logarithmic:
            positive = table.loc[table[column] > 0, column]
            # from scratch stands at 0, left of all others
            axis.set_xscale("symlog", linthresh=float(positive.min()) / 2 if len(positive) else 1.0)
        axis.set(xlabel=label, ylabel="test DSC")
        figure.legend(loc="outside right upper")  # a dozen arms would hide points within
        figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
