"""Draws the comparison: a small SVG with text as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["draw"]

ROWS: Final = ("16 connections", "64 connections")
FIGURES: Final = {
    "requests per second": "rate",
    "median latency, µs": "p50",
    "CPU per request, µs": "served",
    "the caller's included, µs": "whole",
}
COLOURS: Final = ("#9aa5b1", "#1f6feb")


def draw(path: Path, medians: Mapping[str, Callable[[str], Any]]) -> None:
    """Bars side by side, one picture for each figure, with the ratio of the last to the first."""
    import matplotlib as mpl  # type: ignore[import-not-found,unused-ignore]

    mpl.use("svg")
    from matplotlib import pyplot as plt  # type: ignore[import-not-found,unused-ignore]

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "meshsec", "font.size": 8})
    figure, axes = plt.subplots(1, len(FIGURES), figsize=(9, 2.6), layout="constrained")
    for axis, (title, name) in zip(axes, FIGURES.items(), strict=True):
        for index, ((label, median), colour) in enumerate(zip(medians.items(), COLOURS, strict=True)):
            values = [getattr(median(row), name) for row in ROWS]
            bars = axis.bar(
                [place + 0.4 * index for place in range(len(ROWS))], values, 0.38, label=label, color=colour
            )
            if index:
                first = next(iter(medians.values()))
                ratios = [
                    f"x {value / getattr(first(row), name):.2f}" for value, row in zip(values, ROWS, strict=True)
                ]
                axis.bar_label(bars, ratios)
        axis.set_xticks([place + 0.2 for place in range(len(ROWS))], [row.split()[0] for row in ROWS])
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("connections kept alive")
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None})
