"""Datasets on disk: the manifest that vouches for their bytes, and their examples by index."""

import functools
import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

from jaxfc.command import InputError
from jaxfc.data.example import Example, example_from_json
from jaxfc.data.wire import from_record
from jaxfc.files import sha256_of

FORMAT = 2
"""Raised when datasets of an earlier form can no longer be read."""
MANIFEST = "manifest.json"


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a dataset.

    Raises:
        InputError: there is none, or it is of another form.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: not found; a dataset is a folder made by scripts/prepare_data.py.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); prepare the dataset again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise InputError(f"{path}: format is {found}, and this version reads {FORMAT}; prepare the dataset again.")
    return manifest


def open_split(folder: str | Path, split: str) -> "Split":
    """One split of a dataset as a random-access source of examples, every shard checked against the manifest.

    Raises:
        InputError: there is no such split, or a shard is missing, cut short or changed; it names the file.
    """
    folder = Path(folder)
    splits = read_manifest(folder)["splits"]
    if split not in splits:
        raise InputError(f"{folder}: has no split {split}; its splits are {', '.join(splits)}.")
    shards = splits[split]["shards"]
    for shard in shards:
        _check_shard(folder / shard["file"], shard["bytes"], shard["sha256"])
    return Split([str(folder / shard["file"]) for shard in shards], splits[split]["examples"])


def _check_shard(path: Path, size: int, digest: str) -> None:
    if not path.is_file():
        raise InputError(f"{path}: the shard is missing; {MANIFEST} lists it. Copy or prepare the dataset again.")
    found = path.stat().st_size
    if found != size:
        raise InputError(f"{path}: {found} bytes, and {MANIFEST} says {size}. Copy or prepare the dataset again.")
    found = sha256_of(path)
    if found != digest:
        raise InputError(
            f"{path}: its sha256 is {found[:12]}..., and {MANIFEST} says {digest[:12]}...: the file was changed. "
            "Copy or prepare the dataset again."
        )


class Split:
    """Examples in shards, by index, as Grain's random-access sources are; it can be sent to other processes."""

    def __init__(self, shards: Sequence[str], count: int):
        self._shards, self._count = list(shards), count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: SupportsIndex) -> Example:
        if not 0 <= operator.index(index) < self._count:
            raise IndexError(f"example {index} of {self._count}")
        return example_from_json(from_record(self._records[operator.index(index)]))

    def numbers(self, index: SupportsIndex) -> tuple[float, float | None]:
        """Weight and pass rate of an example, in a third of the time that the whole takes."""
        document = json.loads(from_record(self._records[operator.index(index)]))
        return document["weight"], document["pass_rate"]

    def __repr__(self) -> str:
        return f"Split({[Path(shard).name for shard in self._shards]})"

    def __getstate__(self) -> dict[str, Any]:
        return {"_shards": self._shards, "_count": self._count}

    @functools.cached_property
    def _records(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(self._shards)
