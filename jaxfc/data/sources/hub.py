"""Datasets of the Hugging Face hub, and folders in its layout, as a stream of rows."""

from collections.abc import Iterator
from typing import Any

from jaxfc.command import InputError
from jaxfc.data.sources.reading import values_of
from jaxfc.data.sources.rows import Place


def dataset_rows(name: str, subset: str | None, split: str) -> Iterator[tuple[Place, Any]]:
    """Stream the rows of a split, each with its place; memory does not grow with their number.

    JSON files are read by `reading`, which takes rows of any shape; Parquet, Arrow and the rest by `datasets`, where
    every row has the keys of all rows, so what is null there is left out. No code of a dataset is run.

    Args:
        name: of a dataset on the hub, or a folder of data files, or one Parquet or Arrow file.
        subset: its configuration; None is the default.
        split: such as `train`.

    Raises:
        InputError: the dataset cannot be reached, or has no such subset or split, or a file is broken.
    """
    builder = _builder(name, subset, split)
    files = builder.config.data_files or {}
    if split not in files:
        raise InputError(f"{name}: has no split {split}; its splits are {', '.join(map(str, files)) or 'none'}.")
    if builder.name != "json":
        for number, row in enumerate(_streamed(builder, name, split), start=1):
            yield Place(name, number), without_nulls(row)
        return
    import fsspec

    for file in files[split]:
        with fsspec.open(file, "rb") as opened:
            yield from ((Place(str(file), line), row) for line, row in values_of(opened, str(file)))


def is_table(name: str) -> bool:
    """Whether a file is read by `datasets`, by its ending."""
    return name.endswith((".parquet", ".arrow"))


def _builder(name: str, subset: str | None, split: str) -> Any:
    import datasets

    try:
        if is_table(name):
            return datasets.load_dataset_builder(name.rpartition(".")[2], data_files={split: name})
        return datasets.load_dataset_builder(name, subset)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise InputError(f"{name}: no such dataset, or it is not open to you: {_first_line(error)}") from error
    except (ConnectionError, OSError) as error:
        raise InputError(
            f"{name}: cannot be reached: {_first_line(error)}. Without a network give the path of a folder or file."
        ) from error
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{name}: cannot be read: {_first_line(error)}") from error


def _streamed(builder: Any, name: str, split: str) -> Iterator[dict[str, Any]]:
    import datasets
    import pyarrow

    try:
        yield from builder.as_streaming_dataset(split=split)
    except (OSError, pyarrow.ArrowException, datasets.exceptions.DatasetGenerationError) as error:
        raise InputError(f"{name}: split {split} cannot be read: {_first_line(error)}") from error


def without_nulls(value: Any) -> Any:
    """The value without the keys of objects that are null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
