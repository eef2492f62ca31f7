"""Source: where rows come from; and the stream of its rows."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

from jaxfc.command import InputError
from jaxfc.data.sources.forms import raw_rows
from jaxfc.data.sources.hub import dataset_rows, is_table
from jaxfc.data.sources.reading import Opened, as_opened, read_values
from jaxfc.data.sources.rows import Place, RawRow
from jaxfc.data.sources.single import with_answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A set of rows, and how they count. Which form a row has, the row itself shows."""

    path: str | None = None
    """A file (JSON Lines or one JSON array, plain or gzip) or a folder of such files, Parquet or Arrow."""
    dataset: str | None = None
    """Instead of a path: the name of a dataset on the Hugging Face hub: Salesforce/xlam-function-calling-60k."""
    subset: str | None = None
    """Of a dataset that has several (their configuration); null is its default."""
    split: str = "train"
    """Of a folder or dataset."""
    name: str | None = None
    """Source that rows are counted under; null keeps what the rows say, or else the name of the file or dataset."""
    licence: str | None = None
    """SPDX expression of rows that name no licence; null leaves it open."""
    weight: float = 1.0
    """How often an epoch of training shows each of its rows on average; 2 is twice, 0.5 every other epoch."""

    def __post_init__(self):
        if (self.path is None) == (self.dataset is None):
            raise ValueError("a source needs either path (a file or folder) or dataset (a name), and not both.")
        if not (0 <= self.weight < math.inf):
            raise ValueError(f"weight is {self.weight}; a source's weight is a number of at least 0.")


def read_source(source: Source, opened: Opened = as_opened) -> Iterator[RawRow]:
    """Read the rows of a source, one after another; memory does not grow with their number.

    Args:
        source: to read.
        opened: what is read instead of each file that is opened here.

    Raises:
        InputError: it cannot be read, a line is broken, or a row has no known form; it names file and line.
    """
    path = Path(source.path or "")
    if source.path is not None and not path.is_dir() and not is_table(path.name):
        rows = read_rows(path, opened)
    else:
        found = dataset_rows(source.path or source.dataset, source.subset, source.split)
        rows = _some(
            (raw_row for place, row in found for raw_row in raw_rows(row, place)), source.path or source.dataset
        )
    for row in rows:
        yield dataclasses.replace(
            row,
            source=source.name or row.source or _name_of(source),
            licence=row.licence or source.licence or "",
            weight=source.weight,
        )


def _name_of(source: Source) -> str:
    """What a source is called that has no name: the file, folder or dataset without what stands before and after."""
    return Place(source.path or source.dataset, 0).stem


def _some(rows: Iterator[RawRow], name: str) -> Iterator[RawRow]:
    """The rows; InputError where there are none."""
    first = next(rows, None)
    if first is None:
        raise InputError(f"{name}: holds no rows; a row is a JSON object with query or messages, tools and answers.")
    yield first
    yield from rows


def read_rows(path: Path, opened: Opened = as_opened) -> Iterator[RawRow]:
    """Read a file of rows: JSON Lines or one JSON array, plain or gzipped, the form of each row found from the row.

    A row of a conversation gives one raw row for each turn of the assistant's.

    Raises:
        InputError: the file cannot be read, a line is broken, or a row has no known form; it names file and line.
    """
    rows = (
        raw_row
        for line, row in with_answers(path, read_values(path, opened))
        for raw_row in raw_rows(row, Place(str(path), line))
    )
    return _some(rows, str(path))
