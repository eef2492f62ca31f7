"""A run's folder -> `report.html`: one page that needs nothing else, with figures, curves and rollouts to read."""

import gzip
import itertools
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np
import yaml

from jaxfc.command import InputError
from jaxfc.curves import Chart, draw_chart, draw_reasons
from jaxfc.files import write_atomically
from jaxfc.metrics import read_metrics

ASSETS = Path(__file__).parent / "assets"
CHARTS = (
    Chart("Reward", "All completions; and prompts that any completion got right.", ("reward/mean", "reward/pass_any")),
    Chart("Held-out accuracy", "Greedy answers to examples that training does not see.", ("eval/overall",)),
    Chart("Entropy of the chain of thought", "Mean over its tokens, in nats.", ("entropy/cot_mean",)),
    Chart("Entropy bonus", "What the entropy adds to an advantage, on average.", ("entropy/bonus_mean",)),
    Chart("Distance from the reference", "KL of the policy, nats per token.", ("kl/reference",)),
    Chart("Sampler against trainer", "KL of the two on the same tokens; rounding alone is near 0.", ("kl/sampler",)),
    Chart("Length", "Mean tokens of a completion.", ("length/completion_mean",)),
    Chart("Truncated", "Completions cut at the token limit, as a part of all.", ("length/truncated",)),
    Chart("Gradient norm", "Before clipping.", ("optim/grad_norm",)),
    Chart("Loss", "What the optimizer minimises.", ("loss/total",)),
)
SHOWN_PROMPTS, SHOWN_ROLLOUTS = 4, 4
"""Of a recorded step, and of each of its groups; more would make the page heavy."""
SHOWN_TOKENS = 600
"""Of a completion; the middle of a longer one is left out."""
HEAT_LEVELS = 10
_SWITCHES = dict.fromkeys(
    [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C], "\N{REPLACEMENT CHARACTER}"
)
_CONTROLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_UNSHOWN = _SWITCHES | _CONTROLS | dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}")


class Rollout(NamedTuple):
    """What a transcript says of one completion (`transcripts.py` writes it)."""

    prompt_id: str
    query: str
    tools: list[str]
    reward: float
    reason: str
    detail: str
    advantage: float
    tokens: list[str]
    logprobs: list[float]
    """Of each token when it was sampled, nats; NaN where there was no number."""
    entropies: list[float]
    """Of the distribution it was drawn from, nats."""
    cot: list[bool]
    """Whether it belongs to the chain of thought."""


class RunFiles(NamedTuple):
    """What is read of a run."""

    settings: dict[str, Any]
    settings_text: str
    rows: list[dict[str, Any]]
    """Metrics of each step so far."""
    summary: dict[str, Any] | None
    """None: the run is not finished."""
    recorded: list[tuple[str, list[Rollout]]]
    """The first and the last step with transcripts: the file's name, and its rows."""


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run's folder, whether the run is finished or goes on; returns its path.

    The page is a single file without scripts or outside references. The same files give the same bytes.

    Raises:
        InputError: the folder holds no steps, or a file in it is not what training writes.
        OutputError: the page cannot be written.
    """
    run = _read_run(Path(run_folder))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "rate": _rate, "signed": _signed, "duration": _duration}
    page = environment.get_template("report.html.jinja").render(
        style=markupsafe.Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
        name=_visible(run.settings.get("name") or Path(run_folder).resolve().name),
        run=run,
        scores=_scores(run.summary or {}),
        phases=_phases(run),
        programs=_seconds(run.summary or {}, "seconds/compile/"),
        charts=[drawn for chart in CHARTS if (drawn := draw_chart(_with_kinds(chart, run.rows), run.rows))],
        reasons=draw_reasons(run.rows),
        **_headlines(run),
        **_transcripts(run.recorded),
    )
    path = Path(run_folder) / "report.html"
    write_atomically(path, page)
    return path


# What is read


def _read_run(folder: Path) -> RunFiles:
    metrics = folder / "metrics.jsonl"
    rows = read_metrics(metrics) if metrics.is_file() else []
    if not rows:
        found = "has no complete line" if metrics.is_file() else "is not there"
        raise InputError(
            f"{folder}: no steps to report on: metrics.jsonl {found}. Give the folder of a run that has made a step, "
            "such as runs/quickstart."
        )
    settings_text, settings = _read_settings(folder / "config.yaml")
    summary = folder / "summary.json"
    transcripts = sorted((folder / "rollouts").glob("step_*.jsonl.gz"), key=_step_of)
    chosen = transcripts if len(transcripts) < 2 else [transcripts[0], transcripts[-1]]
    return RunFiles(
        settings=settings,
        settings_text=settings_text,
        rows=[_numbers(row) for row in rows],
        summary=_numbers(_read_summary(summary)) if summary.is_file() else None,
        recorded=[(path.name, _read_transcript(path)) for path in chosen],
    )


def _step_of(path: Path) -> int:
    number = re.fullmatch(r"step_(\d+)\.jsonl\.gz", path.name)
    if number is None:
        raise InputError(f"{path}: should be called step_<number>.jsonl.gz, as training names it.")
    return int(number[1])


def _read_settings(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        return "", {}
    try:
        text = path.read_text(encoding="utf-8")
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not the YAML that training wrote: {' '.join(str(error).split())}.") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: should hold settings, as `key: value` lines.")
    return _visible(text), settings


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not the JSON that training wrote: {error}.") from error
    if not isinstance(summary, dict):
        raise InputError(f"{path}: should be a JSON object of figures.")
    return summary


def _read_transcript(path: Path) -> list[Rollout]:
    try:
        lines = gzip.decompress(path.read_bytes()).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be unpacked: {error}. Remove it to do without.") from error
    rollouts = []
    for number, line in enumerate(lines, 1):
        try:
            rollouts.append(_rollout(_visible(json.loads(line))))
        except (ValueError, KeyError, TypeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise InputError(f"{path}:{number}: not a rollout as training writes it ({what}).") from error
    return rollouts


def _numbers(figures: dict[str, Any]) -> dict[str, Any]:
    """Those figures that are numbers, or null for what was none."""
    return {_visible(name): value for name, value in figures.items() if isinstance(value, int | float | None)}


def _rollout(row: dict[str, Any]) -> Rollout:
    rollout = Rollout(
        **{field: str(row[field]) for field in ("prompt_id", "query", "reason", "detail")},
        **{field: _number(row[field]) for field in ("reward", "advantage")},
        **{field: [str(item) for item in row[field]] for field in ("tools", "tokens")},
        **{field: [_number(item) for item in row[field]] for field in ("logprobs", "entropies")},
        cot=[bool(item) for item in row["cot"]],
    )
    lengths = {field: len(getattr(rollout, field)) for field in ("tokens", "logprobs", "entropies", "cot")}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"one value per token is needed, but the lengths are {lengths}")
    return rollout


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _visible(document: Any) -> Any:
    """The document with each text fit for a page: control characters are shown, half surrogates replaced.

    Marks that switch the direction of writing are replaced too: they could make text read as what it is not.
    """
    match document:
        case str():
            return document.encode("utf-16", "surrogatepass").decode("utf-16", "replace").translate(_UNSHOWN)
        case dict():
            return {_visible(key): _visible(value) for key, value in document.items()}
        case list():
            return [_visible(value) for value in document]
    return document


# Figures


def _headlines(run: RunFiles) -> dict[str, Any]:
    """The line under the title, and the figures that a run is quoted by: name, value before, value after, note."""
    summary, settings, rows = run.summary or {}, run.settings, run.rows
    algorithm = settings.get("algorithm") or {}
    bonus = (algorithm.get("entropy") or {}).get("scale", 0) > 0
    method = ("EGPO" if bonus else "GRPO") if algorithm else "Supervised training"
    parts = [method] if settings else []
    parts += [f"{settings['batch']} prompts a step"] if "batch" in settings else []
    parts += [f"{algorithm['group_size']} completions each"] if "group_size" in algorithm else []
    parts += [f"seed {settings['seed']}"] if "seed" in settings else []
    figures = [("Held-out accuracy", summary.get("eval/before/overall"), summary.get("eval/after/overall"))]
    figures += [
        (title, summary.get(f"{name}/first", rows[0].get(name)), summary.get(f"{name}/last", rows[-1].get(name)))
        for title, name in (("Reward", "reward/mean"), ("Loss", "loss/total"))
        if any(name in row for row in rows) and (name == "reward/mean" or not algorithm)
    ]
    return {
        "about": _visible(parts),
        "control": bool((settings.get("reward") or {}).get("shuffled")),
        "steps": settings.get("steps"),
        "figures": [figure for figure in figures if figure[1:] != (None, None)],
    }


def _scores(summary: dict[str, Any]) -> list[tuple[str, float | None, float | None]]:
    """Accuracy before and after: overall first, then by kind."""
    kinds = sorted({key.split("/", 2)[2] for key in summary if re.match("eval/(before|after)/.", key)})
    kinds.sort(key=lambda kind: kind != "overall")
    return [(kind, *(summary.get(f"eval/{when}/{kind}") for when in ("before", "after"))) for kind in kinds]


def _phases(run: RunFiles) -> list[tuple[str, float, float]]:
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
    found = [(key.removeprefix(prefix), _number(value)) for key, value in figures.items() if key.startswith(prefix)]
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _with_kinds(chart: Chart, rows: Sequence[dict[str, Any]]) -> Chart:
    """Held-out accuracy is drawn by kind too."""
    if chart.metrics != ("eval/overall",):
        return chart
    kinds = sorted({key for row in rows for key in row if re.fullmatch("eval/[^/]+", key)} - set(chart.metrics))
    return chart._replace(metrics=chart.metrics + tuple(kinds))


def _figure(value: float | None) -> str:
    """Three significant digits; a dash for what is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    return (
        f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 0.1 else f"{value:#.3g}".rstrip(".")
    )


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


def _transcripts(recorded: Sequence[tuple[str, list[Rollout]]]) -> dict[str, Any]:
    entropies = [value for _, rows in recorded for row in rows for value in row.entropies if math.isfinite(value)]
    # One scale for both steps; a few outliers do not pale the rest.
    hottest = max(float(np.quantile(entropies, 0.99)), 0.1) if entropies else 1.0
    steps = []
    for name, rows in recorded:
        groups = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.prompt_id)]
        steps.append(
            {
                "step": _step_of(Path(name)),
                "file": name,
                "prompts": len(groups),
                "groups": [_group(group, hottest) for group in groups[:SHOWN_PROMPTS]],
            }
        )
    return {"transcripts": steps, "hottest": hottest, "heat_levels": HEAT_LEVELS}


def _group(rows: list[Rollout], hottest: float) -> dict[str, Any]:
    """A prompt and some of its completions: as many right as wrong ones while there are, in their order."""
    by_verdict = [[row for row in rows if (row.reason == "ok") == ok] for ok in (True, False)]
    alternating = [row for pair in itertools.zip_longest(*by_verdict) for row in pair if row is not None]
    shown = {id(row) for row in alternating[:SHOWN_ROLLOUTS]}
    return {
        "first": rows[0],
        "verdicts": [row.reason == "ok" for row in rows],
        "rollouts": [(row, _pieces(row, hottest)) for row in rows if id(row) in shown],
    }


def _pieces(row: Rollout, hottest: float) -> list[dict[str, Any]]:
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
