"""The card of a prepared dataset: one page of Markdown, with front matter as Hugging Face's cards have it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from jaxfc.prepare.settings import Prepare

_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
_LARGEST = "10M<n<100M"


def dataset_card(config: Prepare, report: Mapping[str, Any]) -> str:
    """The card.

    Args:
        config: how it was made.
        report: what became of the rows, as report.json has it.
    """
    examples = report["kept"] + report["repaired"]
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(report, examples), sort_keys=False)}---",
        "# Function calls",
        f"{examples:,} conversations to answer with calls of the tools on offer, or without any. Each answer holds the "
        "calls that are accepted, in BFCL's form: for each argument, the values that count as right.",
        "## Splits",
        _table(
            ("split", "examples", "tools", *_kinds(report)),
            (
                (name, split["examples"], split["tools"], *(split["kinds"].get(kind, 0) for kind in _kinds(report)))
                for name, split in report["splits"].items()
            ),
        ),
        "No tool of one split is on offer in another. `single`: one tool and one call; `choice`: one call and several "
        "tools; `several`: several calls; `none`: no call is right.",
        "## Sources and licences",
        "Each example names its source, its licence (SPDX) and the file and line that it was made from.",
        _table(
            ("source", "licence", "examples"),
            (
                (name or "(not named)", licence or "(none stated)", rows)
                for name, source in report["sources"].items()
                for licence, rows in source["licences"].items()
            ),
        ),
        "## How it was made",
        _story(config, report),
        *_lost(report),
        "## Reading it",
        _READING,
    ]
    return "\n\n".join(parts) + "\n"


_READING = """\
The shards are ArrayRecord files, listed in `manifest.json` with their SHA-256. Each record has the one feature `json`:
`id`, `messages`, `tools`, `accepted`, `source`, `licence`, `kind`, `thought`, `text`, `weight` (how often an epoch
shows it), `pass_rate`, `origin` (file and line) and `repairs`.

```python
from jaxfc.data.dataset import open_split
examples = open_split("FOLDER", "train")

import tensorflow_datasets as tfds  # needs no TensorFlow
examples = tfds.builder_from_directory("FOLDER").as_data_source("train")
```"""


def _front_matter(report: Mapping[str, Any], examples: int) -> dict[str, Any]:
    licences = {
        name.lower()
        for source in report["sources"].values()
        for licence in source["licences"]
        for name in re.findall(r"[\w.+-]+", licence)
        if name not in ("AND", "OR", "WITH")
    }
    size = next((name for name, below in _SIZES if examples < below), _LARGEST)
    return {
        "pretty_name": "Function calls",
        "license": sorted(licences) or ["unknown"],
        "task_categories": ["text-generation"],
        "tags": ["function-calling", "tool-use", "jaxfc"],
        "size_categories": [size],
    }


def _kinds(report: Mapping[str, Any]) -> list[str]:
    return sorted({kind for split in report["splits"].values() for kind in split["kinds"]})


def _story(config: Prepare, report: Mapping[str, Any]) -> str:
    """What was done to the rows, in sentences."""
    repeats, overlap = config.repeats, config.overlap
    lines = [
        f"- {report['input_rows']:,} rows were read"
        + (f", and {report['generated_rows']:,} tasks generated." if report["generated_rows"] else "."),
        "- Each was held against the schemas of its own tools; mechanical faults with one lossless repair were mended."
        if config.ast
        else "- They were not held against the schemas of their tools.",
    ]
    if report["judge"]:
        lines.append(
            f"- A language model, {report['judge']['model']}, judged each answer and had wrong ones corrected."
        )
    wanted = " and ".join(name for name in ("exact", "normalised") if repeats and getattr(repeats, name))
    lines.append(f"- {wanted.capitalize()} repeats of an earlier row were dropped." if wanted else "- Repeats stay.")
    if overlap:
        rows = sum(found["rows"] for found in report["overlap"])
        lines.append(
            f"- The rows were held against {rows:,} evaluation rows of {len(report['overlap'])} files; dropped for: "
            f"{', '.join(overlap.reasons()) or 'nothing, what they share is only reported'}."
        )
    lines.append(
        f"- About {config.held_out:.3g} of all tools is held out (seed {config.seed})."
        if config.held_out
        else "- No tool is held out."
    )
    lines.append(
        f"- {report['kept']:,} rows are as found, {report['repaired']:,} repaired, {report['dropped']:,} were dropped; "
        "`report.json` names rows of each sort."
    )
    return "\n".join(lines)


def _lost(report: Mapping[str, Any]) -> list[str]:
    """Tables of what was mended, what was dropped, and what evaluation files have in common with the rows."""
    parts = []
    for key, title in (("repairs", "repaired"), ("reasons", "dropped")):
        if report[key]:
            parts.append(_table((title, "rows"), ((name, found["rows"]) for name, found in report[key].items())))
    shared = [
        (file["file"], kind, found["rows"], found["dropped"])
        for file in report["overlap"]
        for kind, found in file["shared"].items()
    ]
    return parts + ([_table(("evaluation file", "shared", "rows", "dropped"), shared)] if shared else [])


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else " ".join(str(value).split()).replace("|", "\\|")
