"""The folder through which the machines of a Beam run pass files: on this one, shared, or in cloud storage."""

import contextlib
import dataclasses
import pickle
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from jaxfc.command import InputError
from jaxfc.data.sources.source import Source


@contextlib.contextmanager
def staging(root: str | None) -> Iterator[str]:
    """The address of a new folder in `root`, which is gone in the end; None: among this machine's temporary files.

    Raises:
        InputError: Beam cannot write there.
    """
    if root is None:
        with tempfile.TemporaryDirectory(prefix="jaxfc-beam-") as folder:
            yield folder
        return
    address = FileSystems.join(root, f"jaxfc-{secrets.token_hex(8)}")
    try:
        FileSystems.mkdirs(address)
    except (OSError, ValueError) as error:
        raise InputError(f"{root}: beam.staging is no folder that Beam can write to ({error}).") from error
    try:
        yield address
    finally:
        FileSystems.delete([address])


def put(path: Path, address: str):
    """Copy a file of this machine."""
    with path.open("rb") as source, _created(address) as target:
        shutil.copyfileobj(source, target)


def fetch(address: str, path: Path):
    """Copy a file to this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(address) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)


def put_text(text: str, address: str):
    """Write a file."""
    with _created(address) as target:
        target.write(text.encode())


def text_of(address: str) -> str:
    """Read a file."""
    with _opened(address) as source:
        return source.read().decode()


def put_object(value: Any, address: str):
    """Write an object of this package's, for its own workers."""
    with _created(address) as target:
        pickle.dump(value, target)


def object_of(address: str) -> Any:
    """What `put_object` wrote."""
    with _opened(address) as source:
        return pickle.loads(source.read())


# Beam would unpack what ends with .gz.


def _created(address: str):
    return FileSystems.create(address, compression_type=CompressionTypes.UNCOMPRESSED)


def _opened(address: str):
    return FileSystems.open(address, compression_type=CompressionTypes.UNCOMPRESSED)


@dataclasses.dataclass(frozen=True)
class StagedSource:
    """A source whose files are in the staging folder."""

    source: Source
    address: str
    """Of the folder that its files are in."""
    files: tuple[str, ...]
    """Their names from there; none for a dataset of the hub."""

    @contextlib.contextmanager
    def fetched(self) -> Iterator[Source]:
        """The source, its files on this machine."""
        if self.source.path is None:
            yield self.source
            return
        with tempfile.TemporaryDirectory(prefix="jaxfc-input-") as folder:
            for name in self.files:
                fetch(FileSystems.join(self.address, *name.split("/")), Path(folder, name))
            yield dataclasses.replace(self.source, path=str(Path(folder, Path(self.source.path).name)))


def stage(sources: Sequence[Source], address: str) -> list[StagedSource]:
    """Copy the files of sources to the staging folder.

    Raises:
        InputError: one is not there.
    """
    return [_stage(source, FileSystems.join(address, f"input-{number}")) for number, source in enumerate(sources)]


def _stage(source: Source, address: str) -> StagedSource:
    if source.path is None:
        return StagedSource(source, address, ())
    path = Path(source.path)
    # BFCL's answers stand in a folder beside its questions.
    answers = path.parent / "possible_answer" / path.name
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    files += [answers] if answers.is_file() else []
    for file in files:
        target = FileSystems.join(address, *file.relative_to(path.parent).parts)
        with contextlib.suppress(OSError):  # It is there already.
            FileSystems.mkdirs(target.rpartition("/")[0])
        try:
            put(file, target)
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}).") from error
    return StagedSource(source, address, tuple(file.relative_to(path.parent).as_posix() for file in files))
