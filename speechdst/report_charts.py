"""The report's charts: matplotlib figures as inline SVG that takes its colours from the page.

Text stays text, so it follows the page's font and can be searched; colours are CSS variables, so a
dark page has dark charts. Labels come from data: matplotlib escapes them, and `$` is no formula.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from speechdst.evaluation.stopping import Curve
from speechdst.metrics import transfer
from speechdst.metrics.scores import Rate

# Stand-ins that no chart uses otherwise; `_svg` swaps them for the page's variables.
INK, MUTED, GRID = "#010203", "#010204", "#010205"
SERIES = ("#010211", "#010212", "#010213", "#010214")
TIME = "time/"  # begins the numbers that are seconds by what they went into
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    colour: f"--series-{i + 1}" for i, colour in enumerate(SERIES)
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "speechdst",  # equal data, equal page
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "lines.linewidth": 1.6,
}


def _axes(width: float, height: float):
    figure = Figure((width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, label: str) -> Markup:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var({name})")
    opening = Markup('<svg role="img" aria-label="{}"').format(label)
    return Markup(text.replace("<svg", opening, 1))


def curves(rows: Sequence[dict]) -> tuple[list[str], list[tuple[str, Markup]]]:
    """Stages in their order, and one chart per number found in `rows`, a line per stage.

    `rows`: `{"stage", "step", name: number, ...}`; where a step of a stage comes again (a resumed
    run), the later row stands. Values that are no finite numbers are left out.
    """
    stages = by_stage(rows)
    names = dict.fromkeys(
        name
        for row in rows
        for name in row
        if name not in ("stage", "step") and not name.startswith(TIME) and _finite(row[name])
    )
    charts = []
    with matplotlib.rc_context(_STYLE):
        for name in sorted(names, key=lambda n: ("loss" not in n, n)):
            figure, axes = _axes(3.6, 2.1)
            for i, by_step in enumerate(stages.values()):
                points = [(s, r[name]) for s, r in sorted(by_step.items()) if _finite(r.get(name))]
                if points:
                    dots = "o" if len(points) < 3 else ""
                    colour = SERIES[i % len(SERIES)]
                    style = ("-", "--", ":")[i // len(SERIES) % 3]
                    axes.plot(*zip(*points, strict=True), dots + style, color=colour, markersize=4)
            axes.grid(axis="y", linewidth=0.6)
            axes.tick_params(length=0)
            axes.set_xlabel("step")
            charts.append((name, _svg(figure, f"{name} by step")))
    return list(stages), charts


def by_stage(rows: Sequence[dict]) -> dict[str, dict[int, dict]]:
    """Stage -> step -> row, the stages in their order."""
    stages: dict[str, dict[int, dict]] = {}
    for row in rows:
        stages.setdefault(str(row["stage"]), {})[int(row["step"])] = row
    return stages


def time_shares(shares: dict[str, dict[str, float]]) -> Markup:
    """A bar per stage, cut by what its time went into; shares of 0 to 1."""
    kinds = list(dict.fromkeys(kind for by_kind in shares.values() for kind in by_kind))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(6.4, 0.9 + 0.3 * max(1, len(shares)))
        begin = [0.0] * len(shares)
        for i, kind in enumerate(kinds):
            part = [100 * by_kind.get(kind, 0.0) for by_kind in shares.values()]
            colour = (*SERIES, GRID)[min(i, len(SERIES))]
            axes.barh(range(len(shares)), part, left=begin, color=colour, height=0.6, label=kind)
            begin = [a + b for a, b in zip(begin, part, strict=True)]
        axes.set_yticks(range(len(shares)), list(shares))
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("wall time, %")
        figure.legend(loc="outside upper left", ncols=len(kinds), frameon=False)
        return _svg(figure, "Shares of wall time by stage")


def _finite(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def by_domain(rates: dict[str, Rate]) -> Markup:
    """A dot and its interval per domain."""
    known = [(name, rate) for name, rate in rates.items() if rate.value is not None]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(4.6, 0.6 + 0.3 * max(1, len(known)))
        for y, (_, rate) in enumerate(known):
            if rate.low is not None:
                axes.plot([rate.low, rate.high], [y, y], color=SERIES[0], linewidth=2.4, alpha=0.45)
            axes.plot([rate.value], [y], "o", color=SERIES[0], markersize=5, clip_on=False)
            axes.annotate(
                f"{rate.value:.1f}",
                (104, y),
                va="center",
                ha="left",
                fontsize=8.5,
                color=INK,
                annotation_clip=False,
            )
        axes.set_yticks(range(len(known)), [f"{n} ({r.count})" for n, r in known])
        axes.set_xlim(0, 102)
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.grid(axis="x", linewidth=0.6)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("joint goal accuracy, %")
        return _svg(figure, "Joint goal accuracy by domain with 95 % intervals")


def by_turn(rates: dict[int, Rate]) -> Markup:
    """Joint goal accuracy over the user turn number; a bar for the interval."""
    known = [(n, r) for n, r in sorted(rates.items()) if r.value is not None]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(4.6, 2.5)
        for n, rate in known:
            if rate.low is not None:
                bar = [rate.low, rate.high]
                axes.plot([n, n], bar, color=SERIES[0], linewidth=2.4, alpha=0.35)
        xs, ys = [n for n, _ in known], [r.value for _, r in known]
        axes.plot(xs, ys, "-", color=SERIES[0])
        axes.plot(xs, ys, "o", color=SERIES[0], markersize=3, clip_on=False)
        axes.set_ylim(0, 102)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", linewidth=0.6)
        axes.tick_params(length=0)
        axes.set_xlabel("user turn number")
        axes.set_ylabel("joint goal accuracy, %")
        return _svg(figure, "Joint goal accuracy by user turn number with 95 % intervals")


def over_optimisation(curve: Curve, labels: Mapping[str, str]) -> list[tuple[str, Markup]]:
    """A chart per score of a curve over its steps, with intervals: what is bounded and what was to
    be had first. Dashed: the bound; a ring: the chosen step; grey: from where a bound is broken."""
    known = dict.fromkeys(n for p in curve.points for n in p.scores if ": " not in n)
    first = [curve.goal, *curve.bounds]
    charts = []
    with matplotlib.rc_context(_STYLE):
        for name in sorted(known, key=lambda n: ([*first, n].index(n), list(labels).index(n)
                                                 if n in labels else len(labels))):
            points = [(p.step, p.scores[name]) for p in curve.points if p.value(name) is not None]
            if not points:
                continue
            figure, axes = _axes(3.6, 2.1)
            for step, rate in points:
                if rate.low is not None:
                    axes.plot([step] * 2, [rate.low, rate.high], color=SERIES[0], linewidth=2.4,
                              alpha=0.35)
            axes.plot([s for s, _ in points], [r.value for _, r in points], "o-", color=SERIES[0],
                      markersize=3)
            base = curve.points[0].value(name)
            if name in curve.bounds and base is not None:
                axes.axhline(curve.bounds[name].of(base), color=SERIES[1], linestyle="--",
                             linewidth=1)
            for step, rate in points:
                if step == curve.choice.step:
                    axes.plot([step], [rate.value], "o", color=SERIES[2], markersize=9,
                              fillstyle="none")
            if curve.choice.stopped is not None:
                axes.axvspan(curve.choice.stopped, curve.points[-1].step, color=GRID, alpha=0.5,
                             linewidth=0)
            axes.grid(axis="y", linewidth=0.6)
            axes.tick_params(length=0)
            axes.set_xlabel("step")
            label = labels.get(name, name)
            charts.append((label, _svg(figure, f"{label} by step")))
    return charts


def amounts(series: dict[str, tuple[dict[float, tuple], transfer.Curve | None]], what: str
            ) -> Markup:
    """Accuracy in percent by amount of data. `series`: name -> its points {amount: (value, low,
    high)} with intervals (None: none), and the curve through them (None: none). Amounts are drawn
    as powers, beginning with 0."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(5.2, 3.0)
        most = max((a for points, _ in series.values() for a in points), default=1) or 1
        least = min((a for points, _ in series.values() for a in points if a), default=1)
        for i, (name, (points, curve)) in enumerate(series.items()):
            colour = SERIES[i % len(SERIES)]
            for amount, (_, low, high) in points.items():
                if low is not None:
                    axes.plot([amount] * 2, [low, high], color=colour, linewidth=2.4, alpha=0.35)
            known = sorted((a, p[0]) for a, p in points.items() if p[0] is not None)
            axes.plot(*zip(*known, strict=True), "o", color=colour, markersize=4, label=name)
            if curve:
                line = np.concatenate([[0.0], np.geomspace(least / 4, most, 100)])
                axes.plot(line, curve(line), "-", color=colour)
            else:
                axes.plot(*zip(*known, strict=True), ":", color=colour)
        axes.set_xscale("symlog", linthresh=least)
        axes.set_xlim(left=0)
        ticks = sorted({0, *(a for points, _ in series.values() for a in points)})
        axes.set_xticks(ticks, [f"{a:,g}" for a in ticks])  # powers would be written as TeX
        axes.minorticks_off()
        axes.grid(axis="y", linewidth=0.6)
        axes.tick_params(length=0)
        axes.set_xlabel(what)
        axes.set_ylabel("joint goal accuracy, %")
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
        return _svg(figure, f"Joint goal accuracy by {what}, with 95 % intervals")


def page(title: str, charts: dict[str, Markup], lines: Sequence[str] = ()) -> str:
    """Charts and lines of text as a page of their own; titles and lines are escaped."""
    colours = dict(zip(_VARIABLES.values(), (
        "#1c1f23", "#5b6169", "#dcdfe3", "#1f5fa8", "#b4561a", "#2f7d4f", "#7a4b9e"),
        strict=True))
    style = Markup(":root {{ {} }} body {{ font: 16px/1.5 sans-serif; margin: 2rem; }}").format(
        Markup(" ".join(f"{name}: {value};" for name, value in colours.items())))
    figures = Markup("").join(
        Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(name, chart)
        for name, chart in charts.items())
    said = Markup("").join(Markup("<p>{}</p>").format(line) for line in lines)
    return Markup("<!doctype html><html lang=en><meta charset=utf-8><title>{0}</title>"
                  "<style>{1}</style><h1>{0}</h1>{2}{3}</html>\n").format(
        title, style, said, figures)
