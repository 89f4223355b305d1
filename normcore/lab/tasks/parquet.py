"""The rows of parquet files, whose faults are told in a sentence that names the file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError


def columns(path: Path) -> list[str]:
    """Names of the file's columns.

    Raises:
        DataError: truncated, or not a parquet file.
    """
    import pyarrow.parquet as pq

    with _refusing(path):
        return list(pq.read_schema(path).names)


def lacking(path: Path, wanted: Sequence[str]) -> str:
    """What the file lacks of the columns that are wanted, in words; nothing where it has them.

    Raises:
        DataError: truncated, or not a parquet file.
    """
    there = columns(path)
    missing = sorted(set(wanted) - set(there))
    return f"{path} has no column {', '.join(missing)}; its columns are {', '.join(there)}" if missing else ""


def rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[list[Any], str]]:
    """Of each row the values in the columns that are wanted, and where it stands.

    Raises:
        DataError: truncated, not a parquet file, or without such a column.
    """
    import pyarrow.parquet as pq

    if words := lacking(path, wanted):
        raise DataError(words)
    row = 0
    with _refusing(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1024, columns=list(wanted)):
            for values in zip(*(batch[name].to_pylist() for name in wanted), strict=True):
                yield list(values), f"{path}, row {row}"
                row += 1


def picture(cell: Any, place: str) -> bytes:
    """The bytes of a picture's file, of a cell as Hugging Face ``datasets`` writes it.

    Raises:
        DataError: it has none.
    """
    content = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(content, bytes):
        got = f"a path, {cell['path']}" if isinstance(cell, dict) and cell.get("path") else f"{type(cell).__name__}"
        raise DataError(f"{place}: a picture is its file's bytes, got {got}; write the table with the files in it")
    return content


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is truncated or not a parquet file ({error}): get it again") from error
