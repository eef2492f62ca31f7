"""Metrics over steps -> SVG to be set into a page, whose style sheet gives the colours."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

WIDTH, HEIGHT, AREA_HEIGHT = 4.6, 2.3, 3.2
"""Inches of 72 units."""
CURVE_COLORS, AREA_COLORS = 8, 12
"""Colours that the style sheet has: --c0 and so on for curves, --r0 and so on for areas."""
REASON = "reason/"
SMOOTH_FROM = 40
"""With this many points and more, a curve is drawn faint and its moving mean over it."""
MOST_POINTS = 400
"""Points of an area; where a run has more steps, each is the mean of several."""
# Matplotlib writes these into its output; they stand for variables of the style sheet and are replaced by them.
_INK, _RULE = "#fe0101", "#fe0102"
_CURVES = tuple(f"#fe02{number:02x}" for number in range(CURVE_COLORS))
_AREAS = tuple(f"#fe03{number:02x}" for number in range(AREA_COLORS))
_VARIABLES = {_INK: "var(--muted)", _RULE: "var(--rule)"}
_VARIABLES |= {color: f"var(--c{number})" for number, color in enumerate(_CURVES)}
_VARIABLES |= {color: f"var(--r{number})" for number, color in enumerate(_AREAS)}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 5),
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "ytick.major.size": 0,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
}


class Chart(NamedTuple):
    """A set of axes of the report."""

    title: str
    note: str
    """What is drawn, and its unit."""
    metrics: tuple[str, ...]
    """Their names in metrics.jsonl."""


class Line(NamedTuple):
    """The legend of a curve."""

    metric: str
    color: int
    """Of the palette."""
    first: float
    last: float
    """First and last number of it; NaN where it never is one."""
    lost: int
    """Steps in which it is not a number."""


class Drawn(NamedTuple):
    """A chart that is drawn."""

    chart: Chart
    lines: list[Line]
    svg: Any
    """Markup."""
    window: int
    """Points that each point of a moving mean is the mean of; 0 where none is drawn."""


class Share(NamedTuple):
    """The legend of an area."""

    reason: str
    color: int
    first: float
    last: float
    """Mean part of the completions in the first and the last tenth of the steps."""


class Reasons(NamedTuple):
    """The verdict reasons, drawn; the largest first."""

    shares: list[Share]
    svg: Any
    """Markup."""


def draw_chart(chart: Chart, rows: Sequence[Mapping[str, Any]]) -> Drawn | None:
    """Draw those of the chart's metrics that the rows have; None if they have none."""
    names = [name for name in chart.metrics if any(name in row for row in rows)]
    if not names:
        return None
    series = [_series(rows, name) for name in names]
    lines = [_line(name, number, values) for number, (name, (_, values)) in enumerate(zip(names, series, strict=True))]
    longest = max(len(values) for _, values in series)
    window = max(5, longest // 20) | 1 if longest >= SMOOTH_FROM else 0

    def paint(axes):
        # The first is the one that matters: it lies on top.
        for line, (steps, values) in reversed(list(zip(lines, series, strict=True))):
            _curve(axes, steps, values, _CURVES[line.color], window, main=line is lines[0])
        rate = all(re.match("(reward|eval)/", name) for name in names)
        low, high = (0.0, 1.0) if rate else axes.get_ylim()
        lowest = min((float(np.nanmin(v)) for _, v in series if np.isfinite(v).any()), default=0.0)
        # From 0 where that costs little: a small change is then not drawn as a large one.
        axes.set_ylim(0.0 if 0 <= lowest < 0.6 * high else low, high)

    return Drawn(chart, lines, _svg(paint, chart.title), window)


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Steps that have the metric, and its values; NaN where they are not finite."""
    pairs = [(row["step"], row[name]) for row in rows if name in row]
    values = np.array([math.nan if value is None else value for _, value in pairs], float)
    return np.array([step for step, _ in pairs], float), np.where(np.isfinite(values), values, math.nan)


def _line(name: str, number: int, values: Float[np.ndarray, " N"]) -> Line:
    finite = values[np.isfinite(values)]
    first, last = (float(finite[0]), float(finite[-1])) if len(finite) else (math.nan, math.nan)
    return Line(name, number % CURVE_COLORS, first, last, len(values) - len(finite))


def _curve(
    axes, steps: Float[np.ndarray, " N"], values: Float[np.ndarray, " N"], color: str, window: int, *, main: bool
):
    width = 1.9 if main else 1.1
    if window and len(values) >= SMOOTH_FROM:
        axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.35)
        axes.plot(steps, moving_mean(values, window), color=color, linewidth=width)
    else:
        axes.plot(steps, values, color=color, linewidth=width, marker="o", markersize=2 * width, markeredgewidth=0)


def moving_mean(values: Float[np.ndarray, " N"], window: int) -> Float[np.ndarray, " N"]:
    """Mean of the finite values among the `window` (odd) around each; fewer at the ends. NaN stays NaN."""
    known = np.isfinite(values)
    weights, half = np.ones(window), window // 2
    sums, counts = (
        np.convolve(each, weights)[half : half + len(values)] for each in (np.where(known, values, 0.0), known * 1.0)
    )
    return np.where(known, sums / np.maximum(counts, 1), math.nan)


def draw_reasons(rows: Sequence[Mapping[str, Any]]) -> Reasons | None:
    """Draw the part of each verdict reason, stacked; None if the rows have no reasons."""
    steps, names, parts = _reason_parts(rows)
    if not names:
        return None
    tenth = max(1, parts.shape[1] // 10)
    shares = [
        Share(name, number, float(part[:tenth].mean()), float(part[-tenth:].mean()))
        for number, (name, part) in enumerate(zip(names, parts, strict=True))
    ]
    bins = np.linspace(0, len(steps), min(len(steps), MOST_POINTS) + 1).astype(int)
    middles, heights = (np.add.reduceat(each, bins[:-1], axis=-1) / np.diff(bins) for each in (steps, parts))
    if len(middles) == 1:
        # An area needs two points.
        middles, heights = middles[0] + np.array([-0.5, 0.5]), heights.repeat(2, axis=1)

    def paint(axes):
        axes.stackplot(middles, heights, colors=_AREAS, linewidth=0)
        axes.set_xlim(middles[0], middles[-1])
        axes.set_ylim(0, 1)

    return Reasons(shares, _svg(paint, "Verdict reasons", AREA_HEIGHT))


def _reason_parts(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[Float[np.ndarray, " N"], list[str], Float[np.ndarray, "R N"]]:
    """Steps, the reasons (`ok`, then the most frequent first) and the part of each in each step.

    A step names only the reasons that it saw. Those that find no colour are added up as `others`.
    """
    judged = [row for row in rows if any(key.startswith(REASON) for key in row)]
    names = sorted({key.removeprefix(REASON) for row in judged for key in row if key.startswith(REASON)})
    parts = {name: np.array([row.get(REASON + name) or 0.0 for row in judged], float) for name in names}
    names.sort(key=lambda name: (name != "ok", -parts[name].sum()))
    if len(names) > AREA_COLORS:
        rest = names[AREA_COLORS - 1 :]
        names = [*names[: AREA_COLORS - 1], "others"]
        parts["others"] = np.sum([parts[name] for name in rest], axis=0)
    steps = np.array([row["step"] for row in judged], float)
    return steps, names, np.array([parts[name] for name in names]).reshape(len(names), len(steps))


def _svg(paint: Callable, title: str, height: float = HEIGHT):
    """What `paint(axes)` draws over steps, as markup without outside references; the same bytes every time."""
    import markupsafe
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps = [1, 2, 2.5, 5, 10]
    slug = re.sub(r"\W+", "-", title.lower())
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": slug}):
        figure = Figure((WIDTH, height), facecolor="none")
        # Fixed margins, in inches: the axes of all charts then line up.
        axes = figure.add_axes((0.5 / WIDTH, 0.25 / height, 1 - 0.58 / WIDTH, 1 - 0.47 / height))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=steps))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=steps))
        axes.margins(x=0.02, y=0.08)
        paint(axes)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    drawing = buffer.getvalue()
    # From the figure on: what stands before it (document type, metadata, a style for everything) is for files.
    body = drawing[drawing.index('<g id="figure_1">') : drawing.rindex("</svg>")]
    # Several drawings share the page, and so the names in it.
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{slug}-", body)
    body = re.sub("#fe0[1-3][0-9a-f]{2}", lambda match: _VARIABLES[match[0]], body)
    box = f"0 0 {WIDTH * 72:g} {height * 72:g}"
    label = markupsafe.escape(f"{title} over steps")
    return markupsafe.Markup(f'<svg viewBox="{box}" role="img" aria-label="{label}">{body}</svg>')
