"""Datasets into files: ArrayRecord shards as TFDS has them, written one example at a time, complete or not at all."""

import contextlib
import errno
import importlib.metadata
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxfc.command import InputError
from jaxfc.data.dataset import FORMAT, MANIFEST
from jaxfc.data.example import Example, example_to_json
from jaxfc.data.wire import FEATURE, to_record
from jaxfc.files import explain_failure, sha256_of, write_atomically

NAME = "function_calls"
"""Of the dataset, as TFDS knows it."""
VERSION = "1.0.0"
SHARD_BYTES = 256 * 2**20
"""A shard ends with the example that reaches this size, before compression."""


class Shard(NamedTuple):
    """A finished file of examples, and the figures that TFDS keeps of it."""

    path: Path
    examples: int
    bytes: int
    """Before compression."""


class ShardWriter:
    """One file of examples."""

    def __init__(self, path: Path):
        from array_record.python.array_record_module import ArrayRecordWriter

        self._path, self._examples, self._bytes = path, 0, 0
        # One record a group, as TFDS has it: each can be read alone.
        self._writer = ArrayRecordWriter(str(path), "group_size:1")

    def add(self, text: str):
        """Write the JSON of an example."""
        record = to_record(text.encode())
        with _write_errors():
            self._writer.write(record)
        self._examples, self._bytes = self._examples + 1, self._bytes + len(record)

    @property
    def bytes(self) -> int:
        """Written so far, before compression."""
        return self._bytes

    def close(self) -> Shard:
        """Finish the file."""
        with _write_errors():
            self._writer.close()
        return Shard(self._path, self._examples, self._bytes)


class DatasetWriter:
    """Examples of all splits, in the order in which they come; one shard of each split is open at a time."""

    def __init__(self, folder: Path, shard_bytes: int):
        """Begin in a folder that is there."""
        self._folder, self._shard_bytes = folder, shard_bytes
        self._open: dict[str, ShardWriter] = {}
        self._shards: dict[str, list[Shard]] = {}

    def add(self, split: str, example: Example):
        """Write an example at the end of a split."""
        shards = self._shards.setdefault(split, [])
        if split not in self._open:
            self._open[split] = ShardWriter(self._folder / f"{split}-{len(shards)}.part")
        self._open[split].add(example_to_json(example))
        if self._open[split].bytes >= self._shard_bytes:
            shards.append(self._open.pop(split).close())

    def close(self) -> dict[str, list[Shard]]:
        """Finish the shards; the shards of each split, in their order."""
        for split in list(self._open):
            self._shards[split].append(self._open.pop(split).close())
        return self._shards


@contextlib.contextmanager
def new_dataset(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends, and is removed when it fails.

    Raises:
        InputError: the folder is there already, or those above it cannot be made.
        OutputError: it could not be written, for want of space for instance; nothing is left behind.
    """
    check_output(folder)
    with explain_failure(folder):
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_output(folder: Path) -> None:
    """Make sure that a dataset can be written to `folder`, and make the folders above it.

    Raises:
        InputError: something is there already, or the folders above cannot be made.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise InputError(f"{folder}: is there already; name a new folder, or remove it first.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder.parent}: cannot be made ({error.strerror}).") from error


def write_dataset(
    folder: Path, splits: Mapping[str, Iterable[Example]], manifest: Mapping[str, Any], files: Mapping[str, str]
) -> dict[str, Any]:
    """Write a dataset; `folder` appears complete or not at all, and the same examples give the same bytes.

    Args:
        folder: must not exist, or be empty.
        splits: the examples of each split, in the order in which they will be read; empty splits have no shards.
        manifest: what else the manifest says: counts, settings, inputs.
        files: further files of the folder: name -> text.

    Returns:
        The manifest as written.

    Raises:
        InputError: the folder is there already, or those above it cannot be made.
        OutputError: the dataset could not be written, for want of space for instance; nothing is left behind.
    """
    with new_dataset(folder) as temporary:
        writer = DatasetWriter(temporary, SHARD_BYTES)
        for split, examples in splits.items():
            for example in examples:
                writer.add(split, example)
        return finish_dataset(temporary, dict.fromkeys(splits, ()) | writer.close(), manifest, files)


def finish_dataset(
    folder: Path, splits: Mapping[str, Iterable[Shard]], manifest: Mapping[str, Any], files: Mapping[str, str]
) -> dict[str, Any]:
    """Give the shards in a folder their names, and add what TFDS and `dataset` need to read them.

    Args:
        folder: that the shards are in.
        splits: the shards of each split, in the order in which they will be read.
        manifest: what else the manifest says: counts, settings, inputs.
        files: further files of the folder: name -> text.

    Returns:
        The manifest as written: `manifest` with the format, the versions, and each split's count, shards and digests.
    """
    named = {split: _named(folder, split, list(shards)) for split, shards in splits.items()}
    _write_tfds_files(folder, {split: shards for split, shards in named.items() if shards})
    described = {
        split: {
            "examples": sum(shard.examples for shard in shards),
            "shards": [
                {"file": shard.path.name, "bytes": shard.path.stat().st_size, "sha256": sha256_of(shard.path)}
                for shard in shards
            ],
        }
        for split, shards in named.items()
    }
    complete = {**manifest, "format": FORMAT, "versions": _versions(), "splits": described}
    for name, text in {**files, MANIFEST: json.dumps(complete, indent=2, sort_keys=True) + "\n"}.items():
        write_atomically(folder / name, text)
    return complete


def _named(folder: Path, split: str, shards: list[Shard]) -> list[Shard]:
    """The shards under the names that TFDS expects, which say how many there are."""
    named = []
    for number, shard in enumerate(shards):
        path = folder / f"{NAME}-{split}.array_record-{number:05}-of-{len(shards):05}"
        named.append(shard._replace(path=shard.path.rename(path)))
    return named


def _write_tfds_files(folder: Path, splits: Mapping[str, list[Shard]]):
    """dataset_info.json and features.json, by TFDS itself, without TensorFlow or a network."""
    with _quiet():
        import tensorflow_datasets as tfds

        identity = tfds.core.DatasetIdentity(
            name=NAME, version=tfds.core.Version(VERSION), data_dir=str(folder), module_name=__name__
        )
        info = tfds.core.DatasetInfo(
            builder=identity,
            description="Conversations, the tools on offer and the accepted calls.",
            # One feature: protobuf writes the entries of a map in an order that changes from run to run.
            features=tfds.features.FeaturesDict({FEATURE: tfds.features.Text()}),
            disable_shuffling=True,
        )
        info.set_file_format("array_record")
        info.set_splits(tfds.core.SplitDict([_split_info(folder, *split) for split in splits.items()]))
        info.write_to_directory(folder)


def _split_info(folder: Path, split: str, shards: list[Shard]) -> Any:
    import tensorflow_datasets as tfds

    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=[shard.examples for shard in shards],
        num_bytes=sum(shard.bytes for shard in shards),
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=NAME, split=split, filetype_suffix="array_record"
        ),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TFDS's notices off standard output, which belongs to `--json`."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _write_errors() -> Iterator[None]:
    """ArrayRecord says that a disk is full by a RuntimeError; make it the OSError that it is."""
    try:
        yield
    except RuntimeError as error:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number)) from error
        raise


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jaxfc", "tensorflow-datasets", "array-record")}
