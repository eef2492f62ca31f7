"""Source: where rows come from; and the stream of its rows."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

from jaxfc.command import InputError
from jaxfc.data.sources.forms import raw_row
from jaxfc.data.sources.reading import read_values
from jaxfc.data.sources.rows import RawRow


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


def read_source(source: Source) -> Iterator[RawRow]:
    """Read the rows of a source, one after another; memory does not grow with their number.

    Raises:
        InputError: it cannot be read, a line is broken, or a row has no known form; it names file and line.
    """
    for row in read_rows(Path(source.path)):
        yield dataclasses.replace(
            row,
            source=source.name or row.source,
            licence=row.licence or source.licence or "",
            weight=source.weight,
        )


def read_rows(path: Path) -> Iterator[RawRow]:
    """Read a file of rows: JSON Lines or one JSON array, plain or gzipped, the form of each row found from the row.

    xLAM's own form is `{id, query, answers, tools}` with a number as id and JSON as text; the common form is
    `{id, source, licence, query | messages, tools, answers[, thought]}`.

    Raises:
        InputError: the file cannot be read, a line is broken, or a row has no known form; it names file and line.
    """
    count = 0
    for line, row in read_values(path):
        count += 1
        yield raw_row(row, path, line)
    if not count:
        raise InputError(f"{path}: holds no rows; a row is a JSON object with query or messages, tools and answers.")
