"""Datasets on disk: ArrayRecord shards that TFDS writes and reads, and a manifest that vouches for their bytes."""

import contextlib
import errno
import functools
import importlib.metadata
import io
import json
import logging
import operator
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

from jaxfc.command import InputError
from jaxfc.data.example import Example, example_from_json, example_to_json
from jaxfc.files import explain_failure, sha256_of, write_atomically

FORMAT = 1
"""Raised when datasets of an earlier form can no longer be read."""
MANIFEST = "manifest.json"


def write_dataset(
    folder: Path, splits: Mapping[str, Sequence[Example]], manifest: Mapping[str, Any], files: Mapping[str, str]
) -> dict[str, Any]:
    """Write a dataset; `folder` appears complete or not at all, and the same examples give the same bytes.

    Args:
        folder: must not exist, or be empty.
        splits: the examples of each split, in the order in which they will be read; empty splits have no shards.
        manifest: what else the manifest says: counts, settings, inputs.
        files: further files of the folder: name -> text.

    Returns:
        The manifest as written: `manifest` with the format, the versions, and each split's count, shards and digests.

    Raises:
        InputError: the folder is there already, or those above it cannot be made.
        OutputError: the dataset could not be written, for want of space for instance; nothing is left behind.
    """
    check_output(folder)
    with explain_failure(folder), _beside(folder) as temporary:
        built = _build({name: examples for name, examples in splits.items() if examples}, temporary / "tfds")
        described = {name: _describe(built, name, len(examples)) for name, examples in splits.items()}
        complete = {**manifest, "format": FORMAT, "versions": _versions(), "splits": described}
        for name, text in {**files, MANIFEST: json.dumps(complete, indent=2, sort_keys=True) + "\n"}.items():
            write_atomically(built / name, text)
        built.chmod(0o755)
        built.replace(folder)
    return complete


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A temporary folder on the same disk, so that what it holds can be renamed to `folder`."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary)


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


def _build(splits: Mapping[str, Sequence[Example]], data_dir: Path) -> Path:
    """Run a TFDS builder over the examples, without TensorFlow or a network; return the folder of its files."""
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class FunctionCalls(tfds.core.GeneratorBasedBuilder):
            """Conversations, the tools on offer and the accepted calls."""

            VERSION = tfds.core.Version("1.0.0")
            # Else TFDS looks beside the module for lists of downloads, with a package that it does not declare.
            pkg_dir_path = code_path = None

            def _info(self) -> tfds.core.DatasetInfo:
                # One feature: protobuf writes the entries of a map in an order that changes from run to run.
                features = tfds.features.FeaturesDict({"json": tfds.features.Text()})
                return tfds.core.DatasetInfo(
                    builder=self, description=self.__doc__, features=features, disable_shuffling=True
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {name: self._generate_examples(name) for name in splits}

            def _generate_examples(self, name: str) -> Iterator[tuple[int, dict[str, str]]]:
                for place, example in enumerate(splits[name]):
                    yield place, {"json": example_to_json(example)}

    with _tidy(data_dir.parent), _write_errors():
        builder = FunctionCalls(data_dir=str(data_dir), file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return Path(builder.data_path)


@contextlib.contextmanager
def _tidy(folder: Path) -> Iterator[None]:
    """Keep TFDS's notices off standard output, which belongs to `--json`, and its temporary folders in `folder`."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    logger, elsewhere = logging.getLogger("absl"), tempfile.tempdir
    level = logger.level
    logger.setLevel(logging.ERROR)
    tempfile.tempdir = str(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tempfile.tempdir = elsewhere
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


def _describe(built: Path, split: str, count: int) -> dict[str, Any]:
    shards = sorted(built.glob(f"*-{split}.array_record-*"))
    return {
        "examples": count,
        "shards": [{"file": shard.name, "bytes": shard.stat().st_size, "sha256": sha256_of(shard)} for shard in shards],
    }


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jaxfc", "tensorflow-datasets", "array-record")}


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
        return example_from_json(_only_value(self._records[operator.index(index)]))

    def __repr__(self) -> str:
        return f"Split({[Path(shard).name for shard in self._shards]})"

    def __getstate__(self) -> dict[str, Any]:
        return {"_shards": self._shards, "_count": self._count}

    @functools.cached_property
    def _records(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(self._shards)


def _only_value(record: bytes) -> bytes:
    """The value of the only feature of a serialised `tf.train.Example`, without protobuf and without TFDS.

    Its messages nest as Example > Features > map entry (name, Feature) > BytesList > value, each field a tag byte, a
    length and that many bytes; the value is what the last field of each level holds.
    """
    for _ in ("features", "entry"):
        record = _last_field(record)
    for _ in ("feature", "bytes_list", "value"):
        record = _last_field(record)
    return record


def _last_field(message: bytes) -> bytes:
    position, value = 0, b""
    while position < len(message):
        position += 1
        length, shift = 0, 0
        while True:
            byte = message[position]
            length |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if byte < 0x80:
                break
        value = message[position : position + length]
        position += length
    return value
