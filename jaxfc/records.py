"""What a run left behind, read back and made fit to be shown: settings, metrics, summary, transcripts."""

import gzip
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from jaxfc.command import InputError
from jaxfc.metrics import read_metrics

_SWITCHES = dict.fromkeys(
    [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C], "\N{REPLACEMENT CHARACTER}"
)
_CONTROLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_UNSHOWN = _SWITCHES | _CONTROLS | dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}")


class Transcript(NamedTuple):
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


class RunRecord(NamedTuple):
    """What is read of a run."""

    settings: dict[str, Any]
    settings_text: str
    rows: list[dict[str, float | None]]
    """Metrics of each step so far."""
    summary: dict[str, float | None] | None
    """None: the run is not finished."""
    recorded: list[tuple[str, list[Transcript]]]
    """The first and the last step with transcripts: the file's name, and its rows."""


def read_run(folder: Path) -> RunRecord:
    """Read a run's folder, whether the run is finished or goes on.

    Raises:
        InputError: it holds no steps, or a file in it is not what training writes.
    """
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
    transcripts = sorted((folder / "rollouts").glob("step_*.jsonl.gz"), key=step_of)
    chosen = transcripts if len(transcripts) < 2 else [transcripts[0], transcripts[-1]]
    return RunRecord(
        settings=settings,
        settings_text=settings_text,
        rows=[_numbers(row) for row in rows],
        summary=_numbers(_read_summary(summary)) if summary.is_file() else None,
        recorded=[(path.name, _read_transcript(path)) for path in chosen],
    )


def step_of(path: Path) -> int:
    """The step that a file of transcripts is of."""
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
    return visible(text), settings


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not the JSON that training wrote: {error}.") from error
    if not isinstance(summary, dict):
        raise InputError(f"{path}: should be a JSON object of figures.")
    return summary


def _read_transcript(path: Path) -> list[Transcript]:
    try:
        lines = gzip.decompress(path.read_bytes()).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be unpacked: {error}. Remove it to do without.") from error
    rollouts = []
    for number, line in enumerate(lines, 1):
        try:
            rollouts.append(_rollout(visible(json.loads(line))))
        except (ValueError, KeyError, TypeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise InputError(f"{path}:{number}: not a rollout as training writes it ({what}).") from error
    return rollouts


def _numbers(figures: dict[str, Any]) -> dict[str, float | None]:
    """Those figures that are numbers, or null for what was none."""
    numbers = {name: value for name, value in figures.items() if isinstance(value, int | float | None)}
    return {visible(name): None if value is None else float(value) for name, value in numbers.items()}


def _rollout(row: dict[str, Any]) -> Transcript:
    rollout = Transcript(
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


def visible(document: Any) -> Any:
    """The document with each text fit for a page: control characters are shown, half surrogates replaced.

    Marks that switch the direction of writing are replaced too: they could make text read as what it is not.
    """
    match document:
        case str():
            return document.encode("utf-16", "surrogatepass").decode("utf-16", "replace").translate(_UNSHOWN)
        case dict():
            return {visible(key): visible(value) for key, value in document.items()}
        case list():
            return [visible(value) for value in document]
    return document
