"""A run's folder -> `report.html`: one page that needs nothing else, with figures, curves and rollouts to read."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np

from jaxfc.curves import Chart, draw_chart, draw_reasons
from jaxfc.files import write_atomically
from jaxfc.records import RunRecord, Transcript, read_run, step_of, visible

ASSETS = Path(__file__).parent / "assets"
CHARTS = (
    Chart("Reward", "All completions; prompts with any right one.", ("reward/mean", "reward/pass_any")),
    Chart("Held-out accuracy", "Greedy, on examples not trained on.", ("eval/overall",)),
    Chart("Entropy of the chain of thought", "Mean over its tokens, in nats.", ("entropy/cot_mean",)),
    Chart("Entropy bonus", "Its mean share of an advantage.", ("entropy/bonus_mean",)),
    Chart("Distance from the reference", "KL of the policy, in nats per token.", ("kl/reference",)),
    Chart("Sampler against trainer", "KL on the same tokens; rounding is near 0.", ("kl/sampler",)),
    Chart("Length", "Tokens of a completion, on average.", ("length/completion_mean",)),
    Chart("Truncated", "Part of the completions cut at the limit.", ("length/truncated",)),
    Chart("Gradient norm", "Before clipping.", ("optim/grad_norm",)),
    Chart("Loss", "What the optimizer minimises.", ("loss/total",)),
)
SHOWN_PROMPTS, SHOWN_ROLLOUTS = 4, 4
"""Of a recorded step, and of each of its groups; more would make the page heavy."""
SHOWN_TOKENS = 600
"""Of a completion; the middle of a longer one is left out."""
HEAT_LEVELS = 10
_WHEN = ("before", "after")


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run's folder, whether the run is finished or goes on; returns its path.

    The page is a single file without scripts or outside references. The same files give the same bytes.

    Raises:
        InputError: the folder holds no steps, or a file in it is not what training writes.
        OutputError: the page cannot be written.
    """
    run = read_run(Path(run_folder))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "rate": _rate, "signed": _signed, "duration": _duration}
    charts = [drawn for chart in CHARTS if (drawn := draw_chart(_with_kinds(chart, run.rows), run.rows))]
    page = environment.get_template("report.html.jinja").render(
        style=markupsafe.Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
        name=visible(str(run.settings.get("name") or Path(run_folder).resolve().name)),
        about=_about(run.settings),
        control=bool(_setting(run.settings, "reward.shuffled")),
        steps=run.settings.get("steps"),
        run=run,
        summary=run.summary or {},
        figures=_headlines(run),
        scores=_scores(run.summary or {}),
        phases=_phases(run),
        programs=_seconds(run.summary or {}, "seconds/compile/"),
        charts=charts,
        windows=[drawn.window for drawn in charts if drawn.window],
        reasons=draw_reasons(run.rows),
        **_transcripts(run.recorded),
    )
    path = Path(run_folder) / "report.html"
    write_atomically(path, page)
    return path


# Figures


def _about(settings: dict[str, Any]) -> list[str]:
    """What kind of run it is, in a few words."""
    if not settings:
        return []
    bonus, group = _setting(settings, "algorithm.entropy.scale"), _setting(settings, "algorithm.group_size")
    method = "Supervised training" if "algorithm" not in settings else "EGPO" if bonus else "GRPO"
    words = [method, f"{settings.get('batch')} prompts a step", f"seed {settings.get('seed')}"]
    return visible(words if group is None else [*words[:2], f"{group} completions each", words[2]])


def _setting(settings: dict[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    value: Any = settings
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _headlines(run: RunRecord) -> list[tuple[str, str, str, str]]:
    """The figures that a run is quoted by: title, note, first and last value."""
    summary = run.summary or {}
    accuracy = "held-out, before and after", *(summary.get(f"eval/{when}/overall") for when in _WHEN)
    if run.summary is None:
        accuracy = "first and last point of the curve", *_ends(run.rows, "eval/overall")
    shown = [
        ("Accuracy", *accuracy, _rate),
        ("Reward", "first and last step", *_ends(run.rows, "reward/mean"), _rate),
    ]
    if not any("reward/mean" in row for row in run.rows):
        shown.append(("Loss", "first and last step", *_ends(run.rows, "loss/total"), _figure))
    return [
        (title, note, write(first), write(last))
        for title, note, first, last, write in shown
        if (first, last) != (None, None)
    ]


def _ends(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float | None, float | None]:
    values = [row[name] for row in rows if name in row] or [None]
    return values[0], values[-1]


def _scores(summary: dict[str, Any]) -> list[tuple[str, float | None, float | None]]:
    """Accuracy before and after: overall first, then by kind."""
    kinds = sorted({key.split("/", 2)[2] for key in summary if re.match("eval/(before|after)/.", key)})
    kinds.sort(key=lambda kind: kind != "overall")
    return [(kind, *(summary.get(f"eval/{when}/{kind}") for when in _WHEN)) for kind in kinds]


def _phases(run: RunRecord) -> list[tuple[str, float, float]]:
    """Name, seconds and part of the whole of each phase, the longest first."""
    if run.summary is not None:
        phases = [(name, seconds) for name, seconds in _seconds(run.summary, "seconds/") if "/" not in name]
    else:
        sums = {key: 0.0 for row in run.rows for key in row}
        for row in run.rows:
            sums |= {key: sums[key] + (value or 0.0) for key, value in row.items()}
        phases = _seconds(sums, "time/")
    total = sum(seconds for _, seconds in phases) or 1.0
    return [(name, seconds, seconds / total) for name, seconds in phases]


def _seconds(figures: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    """What the figures under a prefix are called there, and how much they are; the most first."""
    found = [(key.removeprefix(prefix), value or 0.0) for key, value in figures.items() if key.startswith(prefix)]
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _with_kinds(chart: Chart, rows: Sequence[dict[str, Any]]) -> Chart:
    """Held-out accuracy is drawn by kind too."""
    if chart.metrics != ("eval/overall",):
        return chart
    kinds = sorted({key for row in rows for key in row if re.fullmatch("eval/[^/]+", key)} - set(chart.metrics))
    return chart._replace(metrics=chart.metrics + tuple(kinds))


def _figure(value: float | int | None) -> str:
    """Three significant digits; a dash for what is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    exact = value == int(value) or abs(value) < 0.1
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if exact else f"{value:#.3g}".rstrip(".")
    return re.sub(r"e-0?", "e-", text).replace("-", "\N{MINUS SIGN}")


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None, digits: int = 3) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text[1:]


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s"


# Rollouts


def _transcripts(recorded: Sequence[tuple[str, list[Transcript]]]) -> dict[str, Any]:
    entropies = [value for _, rows in recorded for row in rows for value in row.entropies if math.isfinite(value)]
    # One scale for both steps; a few outliers do not pale the rest.
    hottest = max(float(np.quantile(entropies, 0.99)), 0.1) if entropies else 1.0
    steps = []
    for name, rows in recorded:
        groups = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.prompt_id)]
        steps.append(
            {
                "step": step_of(Path(name)),
                "file": name,
                "prompts": len(groups),
                "groups": [_group(group, hottest) for group in groups[:SHOWN_PROMPTS]],
            }
        )
    return {"transcripts": steps, "hottest": hottest, "heat_levels": HEAT_LEVELS}


def _group(rows: list[Transcript], hottest: float) -> dict[str, Any]:
    """A prompt and some of its completions: as many right as wrong ones while there are, in their order."""
    by_verdict = [[row for row in rows if (row.reason == "ok") == ok] for ok in (True, False)]
    alternating = [row for pair in itertools.zip_longest(*by_verdict) for row in pair if row is not None]
    shown = {id(row) for row in alternating[:SHOWN_ROLLOUTS]}
    return {
        "first": rows[0],
        "verdicts": [row.reason == "ok" for row in rows],
        "rollouts": [(row, _pieces(row, hottest)) for row in rows if id(row) in shown],
    }


def _pieces(row: Transcript, hottest: float) -> list[dict[str, Any]]:
    """The tokens in stretches: in the chain of thought or out of it; or a number of tokens left out."""
    tokens = [
        {"text": text, "heat": _heat(entropy, hottest), "logprob": logprob, "entropy": entropy, "cot": cot}
        for text, logprob, entropy, cot in zip(row.tokens, row.logprobs, row.entropies, row.cot, strict=True)
    ]
    head, left_out = SHOWN_TOKENS * 2 // 3, len(tokens) - SHOWN_TOKENS
    if left_out <= 0:
        return _stretches(tokens)
    return [*_stretches(tokens[:head]), {"left_out": left_out}, *_stretches(tokens[head + left_out :])]


def _stretches(tokens: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    grouped = itertools.groupby(tokens, key=lambda token: token["cot"])
    return [{"left_out": 0, "cot": cot, "tokens": list(stretch)} for cot, stretch in grouped]


def _heat(entropy: float, hottest: float) -> int:
    """0 (sure) to HEAT_LEVELS - 1."""
    return min(HEAT_LEVELS - 1, int(HEAT_LEVELS * max(entropy, 0.0) / hottest)) if math.isfinite(entropy) else 0
