"""Tables whose rows may hold pictures: parquet files and folders that the package ``datasets`` saved."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import AttnError, InputError
from ..memory import budget, check_memory, read_within
from ..network import network
from ..text import reason_of
from .kinds import open_regular
from .photo.read import read_photo

_OBJECT = 40
"""Bytes of a value of a list in Python: the object and its place."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A picture inside a table: fetched when it is asked for. Neighbouring rows are cheap, random ones are not.

    Parameters
    ----------
    table : Path
        A parquet file, or a folder that ``datasets`` saved.
    column : str
    row : int
        From 0.
    """

    table: Path
    column: str
    row: int

    def __str__(self) -> str:
        return f"{self.table}#{self.row + 1}"

    def read_bytes(self) -> bytes:
        """The picture's file as stored. Raises ``InputError`` if the cell is empty or the table cannot be read."""
        cell = _cell(self.table, self.column, self.row)
        data = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if isinstance(cell, Mapping) and data is None and cell.get("path"):
            beside = _beside(self.table, str(cell["path"]))
            with open_regular(beside) as file:
                return read_within(file, beside, what="holds")
        if not isinstance(data, bytes) or not data:
            raise InputError(self.table, f"row {self.row + 1} has no picture in {self.column!r}", "Remove the row")
        return data

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """The picture as a file, for readers of files; their ``InputError`` is made to name table and row."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "picture")
            file.write_bytes(self.read_bytes())
            try:
                yield file
            except InputError as error:
                raise InputError(self.table, f"row {self.row + 1}, {self.column!r}: {error.what}", error.fix) from error

    def read_pixels(self, max_side: int | None = None) -> NDArray[np.float32]:
        """[3, H, W] in [0, 1], as ``read_photo`` gives them. Raises ``InputError`` that names table and row."""
        with self.as_file() as file:
            return read_picture(file, max_side)


def read_picture(image: Path | StoredImage, max_side: int | None = None) -> NDArray[np.float32]:
    """A picture [3, H, W], RGB in [0, 1], a uniform one, too. Raises ``InputError`` if it cannot be read."""
    if isinstance(image, StoredImage):
        return image.read_pixels(max_side)
    return read_photo(image, max_side=max_side, uniform=True).pixels


def read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number from 0 and the cells of each row; a cell with a picture is a ``StoredImage`` without its bytes.

    Raises
    ------
    InputError
        If it is no parquet file, or damaged.
    """
    import pyarrow as pa

    with _told(path):
        file = _parquet(path, _mark(path))
        pictures = [field.name for field in file.schema_arrow if _is_picture(field.type)]
        plain = [field.name for field in file.schema_arrow if field.name not in pictures]
        paths = [f"{name}.path" for name in pictures if pa.types.is_struct(file.schema_arrow.field(name).type)]
        wanted = [*plain, *paths]
        row = 0
        for group in range(file.metadata.num_row_groups):
            _check_group(path, file.metadata.row_group(group), wanted)
            for batch in file.iter_batches(_few_rows(file.metadata.row_group(group), wanted), [group], wanted):
                for cells in batch.to_pylist():
                    yield row, cells | {name: _stored(path, name, row, cells.get(name)) for name in pictures}
                    row += 1


@contextmanager
def _told(table: Path) -> Iterator[None]:
    """Whatever Arrow makes of a damaged file as an ``InputError``."""
    try:
        yield
    except (AttnError, MemoryError, RecursionError):
        raise
    except Exception as error:  # OSError, ArrowException, and of damaged files also TypeError, KeyError, UnicodeError
        raise InputError(
            table, f"cannot be read as parquet ({reason_of(error)})", "Copy or download it again"
        ) from error


def _mark(table: Path) -> int:
    """When a table changed. Raises ``InputError`` if it is no regular file, which Arrow would wait for or map."""
    with open_regular(table) as file:
        return os.fstat(file.fileno()).st_mtime_ns


def _columns(group: Any, wanted: Collection[str]) -> list[Any]:
    """The chunks of a row group that belong to some columns, their inner ones too."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    return [chunk for chunk in chunks if any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in wanted)]


def _check_group(table: Path, group: Any, wanted: Collection[str]) -> None:
    """Refuse a row group that unpacks to more than the budget of memory: its sizes stand in the footer."""
    columns = _columns(group, wanted)
    inner = sum(
        column.num_values for column in columns if column.num_values > group.num_rows
    )  # of lists: small where equal
    size = 3 * sum(max(0, column.total_uncompressed_size) for column in columns) + _OBJECT * inner
    check_memory(table, size, "a row group takes")


def _few_rows(group: Any, wanted: Collection[str]) -> int:
    """Rows to unpack at a time. A dictionary has a long value once, its rows have it each: they must fit, too."""
    size = max(
        [1, *(
            column.total_uncompressed_size * -(-column.num_values // max(1, group.num_rows))
            for column in _columns(group, wanted) if column.has_dictionary_page
        )]
    )  # fmt: skip
    return max(1, min(4096, budget() // 8 // int(size)))


def read_saved(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """``read_parquet`` for a folder of ``Dataset.save_to_disk``. Raises ``InputError`` if it cannot be read."""
    for name in ("state.json", "dataset_info.json"):
        open_regular(folder / name).close()
    for file in sorted(folder.glob("*.arrow")):
        with open_regular(file) as arrow:
            check_memory(file, os.fstat(arrow.fileno()).st_size // 8, "it takes")  # it is mapped, not read
    table = _saved(folder)
    pictures = [name for name, feature in table.features.items() if type(feature).__name__ == "Image"]
    flat = table.flatten()
    named = {f"{name}.path": name for name in pictures}
    flat = flat.select_columns(
        [name for name in flat.column_names if name.rpartition(".")[0] not in pictures or name in named]
    )
    for row, cells in enumerate(flat):
        paths = {name: {"path": cells.pop(column)} for column, name in named.items()}
        yield row, cells | {name: _stored(folder, name, row, paths[name]) for name in pictures}


def is_saved(folder: Path) -> bool:
    """Whether ``datasets`` saved this folder (one split of it)."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


@dataclass(frozen=True, slots=True)
class TablePicture:
    """A cell with a picture: where it is, and the name it had as a file (perhaps empty)."""

    image: StoredImage
    name: str


def _stored(table: Path, column: str, row: int, cell: Any) -> TablePicture:
    name = cell.get("path") if isinstance(cell, Mapping) else None
    return TablePicture(StoredImage(table, column, row), str(name or ""))


def _is_picture(kind: Any) -> bool:
    """The type of a column of pictures: bytes, or the {bytes, path} of ``datasets``."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return {kind.field(i).name for i in range(kind.num_fields)} == {"bytes", "path"}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _cell(table: Path, column: str, row: int) -> Any:
    """One cell, from the block of rows that was read last where it is in that."""
    if table.is_dir():
        return _saved(table)[row][column]
    with _told(table):
        stamp = _mark(table)
        metadata = _parquet(table, stamp).metadata
        first = 0
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            if row < first + count:
                return _in_group(table, stamp, group, column, row - first)
            first += count
    raise InputError(table, f"has no row {row + 1}", "It changed while it was read: start again")


@lru_cache(maxsize=4)
def _parquet(path: Path, stamp: int) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, memory_map=True)


def _in_group(table: Path, stamp: int, group: int, column: str, row: int) -> Any:
    """A cell of a row group, which is unpacked whole where all its rows fit."""
    about = _parquet(table, stamp).metadata.row_group(group)
    _check_group(table, about, [column])
    if (few := _few_rows(about, [column])) >= min(4096, about.num_rows):
        return _group(table, stamp, group, column)[row].as_py()
    for batch in _parquet(table, stamp).iter_batches(few, [group], [column]):
        if row < batch.num_rows:
            return batch.column(0)[row].as_py()
        row -= batch.num_rows
    raise InputError(table, f"row group {group + 1} is shorter than it says", "Copy or download it again")


@lru_cache(maxsize=2)
def _group(path: Path, stamp: int, group: int, column: str) -> Any:
    """A column of a row group, as Arrow."""
    return _parquet(path, stamp).read_row_group(group, columns=[column]).column(0)


@lru_cache(maxsize=2)
def _saved(folder: Path) -> Any:
    """The table of a saved folder, pictures not decoded."""
    with network():
        import datasets
    try:
        with network():
            table = datasets.load_from_disk(str(folder))
    except Exception as error:  # datasets raises whatever its parts raise
        raise InputError(folder, f"cannot be read as a saved data set ({error})", "Save it again") from error
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table


def _beside(table: Path, name: str) -> Path:
    """A picture that the table names instead of holding it."""
    path = (table if table.is_dir() else table.parent) / name
    if not os.path.isfile(path):
        raise InputError(table, f"names the picture {name!r}, which is not there", "Put it beside the table")
    return path
