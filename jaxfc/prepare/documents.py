"""What stands beside the shards of a prepared dataset: manifest, report, and a card that explains it."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfc.command import digest
from jaxfc.data.shards import Shard, finish_dataset
from jaxfc.data.sources.source import Source
from jaxfc.files import sha256_of
from jaxfc.prepare.card import dataset_card
from jaxfc.prepare.settings import Prepare

REPORT = "report.json"
CARD = "README.md"


def finish(folder: Path, config: Prepare, report: Mapping[str, Any], shards: Mapping[str, Sequence[Shard]]):
    """Complete a dataset whose shards are in the folder."""
    shown = _without_folders(config)
    manifest = {
        "config": dataclasses.asdict(shown),
        "config_sha256": digest(shown),
        "inputs": [each for source in config.sources for each in _inputs(source)],
        "counts": _counts(report),
    }
    files = {REPORT: json.dumps(report, indent=2, ensure_ascii=False) + "\n", CARD: dataset_card(shown, report)}
    finish_dataset(folder, dict.fromkeys(report["splits"], ()) | shards, manifest, files)


def _without_folders(config: Prepare) -> Prepare:
    """The settings with files named as `inputs` names them, and without those that change no example: the same data
    gives the same bytes wherever it lies."""
    sources = tuple(
        dataclasses.replace(source, path=Path(source.path).name) if source.path else source for source in config.sources
    )
    overlap = config.overlap and dataclasses.replace(
        config.overlap, files=tuple(Path(file).name for file in config.overlap.files)
    )
    return dataclasses.replace(config, sources=sources, overlap=overlap, beam=None)


def _inputs(source: Source) -> Iterator[dict[str, str | None]]:
    """What a source was read from; the files of a dataset of the hub are the hub's to vouch for."""
    if source.path is None:
        yield {"dataset": source.dataset, "subset": source.subset, "split": source.split}
        return
    path = Path(source.path)
    for file in sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]:
        yield {"file": file.relative_to(path.parent).as_posix(), "sha256": sha256_of(file)}


def _counts(report: Mapping[str, Any]) -> dict[str, Any]:
    return (
        {key: report[key] for key in ("input_rows", "generated_rows", "kept", "repaired", "dropped")}
        | {"sources": report["sources"]}
        | {key: {name: found["rows"] for name, found in report[key].items()} for key in ("reasons", "repairs")}
    )
