"""Tables whose rows may hold pictures: parquet files and folders that the package ``datasets`` saved."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..io.photo import read_photo
from ..network import network


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
            return _beside(self.table, str(cell["path"])).read_bytes()
        if not isinstance(data, bytes) or not data:
            raise InputError(self.table, f"row {self.row + 1} has no picture in {self.column!r}", "Remove the row")
        return data

    def read_pixels(self, max_side: int | None = None) -> NDArray[np.float32]:
        """[3, H, W] in [0, 1], as ``read_photo`` gives them. Raises ``InputError`` that names table and row."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "picture")
            file.write_bytes(self.read_bytes())
            try:
                return read_picture(file, max_side)
            except InputError as error:
                raise InputError(self.table, f"row {self.row + 1}, {self.column!r}: {error.what}", error.fix) from error


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

    try:
        file = _parquet(path, path.stat().st_mtime_ns)
        pictures = [field.name for field in file.schema_arrow if _is_picture(field.type)]
        plain = [field.name for field in file.schema_arrow if field.name not in pictures]
        paths = [f"{name}.path" for name in pictures if pa.types.is_struct(file.schema_arrow.field(name).type)]
        row = 0
        for batch in file.iter_batches(columns=[*plain, *paths], batch_size=4096):
            for cells in batch.to_pylist():
                yield row, cells | {name: _stored(path, name, row, cells.get(name)) for name in pictures}
                row += 1
    except (OSError, pa.ArrowException) as error:
        raise InputError(path, f"cannot be read as parquet ({error})", "Copy or download it again") from error


def read_saved(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """``read_parquet`` for a folder of ``Dataset.save_to_disk``. Raises ``InputError`` if it cannot be read."""
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
class Picture:
    """A cell with a picture: where it is, and the name it had as a file (perhaps empty)."""

    image: StoredImage
    name: str


def _stored(table: Path, column: str, row: int, cell: Any) -> Picture:
    name = cell.get("path") if isinstance(cell, Mapping) else None
    return Picture(StoredImage(table, column, row), str(name or ""))


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
    import pyarrow as pa

    try:
        stamp = table.stat().st_mtime_ns
        metadata = _parquet(table, stamp).metadata
        first = 0
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            if row < first + count:
                return _group(table, stamp, group, column)[row - first].as_py()
            first += count
    except (OSError, pa.ArrowException) as error:
        raise InputError(table, f"cannot be read as parquet ({error})", "Copy or download it again") from error
    raise InputError(table, f"has no row {row + 1}", "It changed while it was read: start again")


@lru_cache(maxsize=4)
def _parquet(path: Path, stamp: int) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, memory_map=True)


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
    if not path.is_file():
        raise InputError(table, f"names the picture {name!r}, which is not there", "Put it beside the table")
    return path
