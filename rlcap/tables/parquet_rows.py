"""Rows of Parquet files, a batch at a time; columns of bytes are never read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rlcap.tables.json_values import check_names
from rlcap.tables.rows import Row, Unreadable

ROWS_PER_BATCH = 4096


def parquet_rows(path: Path, required: Sequence[str], optional: Sequence[str] | None) -> Iterator[Row]:
    """Read the columns asked for; of Hugging Face's `struct<bytes, path>` the path alone."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        check_names(path, schema.names, required)
        fields = [field for field in schema if optional is None or field.name in {*required, *optional}]
        if optional is not None:
            check_names(path, schema.names, [name for name in optional if name in schema.names])
        columns = [_narrow(field) for field in fields if field.name in required or not _is_bytes(field.type)]
        number = 0
        for batch in file.iter_batches(ROWS_PER_BATCH, columns=columns, use_threads=False):
            names = batch.schema.names
            cells = [_cells(column) for column in batch.columns]
            for row in range(batch.num_rows):
                number += 1
                yield Row(
                    number, f"row {number}", {name: values[row] for name, values in zip(names, cells, strict=True)}
                )


def _narrow(field: pa.Field) -> str:
    kind = field.type
    is_audio = pa.types.is_struct(kind) and {"bytes", "path"} <= {kind.field(place).name for place in range(len(kind))}
    return f"{field.name}.path" if is_audio else field.name


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return any((types.is_binary(kind), types.is_large_binary(kind), types.is_fixed_size_binary(kind)))


def _cells(column: pa.Array) -> list[object]:
    if not _is_readable(column.type):
        stand_in = Unreadable(f"a value of type {str(column.type)[:60]}")
        return [stand_in if cell else None for cell in column.is_valid().to_pylist()]
    try:
        cells: list[object] = column.to_pylist()
    except UnicodeDecodeError:  # Parquet does not check that texts are UTF-8
        return [_cell(scalar) for scalar in column]
    return cells


def _cell(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return Unreadable("text that is not UTF-8")


def _is_readable(kind: pa.DataType) -> bool:
    """Whether cells of this type can be told in Python without loss: text, numbers, booleans, and lists of them."""
    types = pa.types
    if types.is_dictionary(kind):
        return _is_readable(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_readable(kind.value_type)
    if types.is_struct(kind):
        return all(_is_readable(kind.field(place).type) for place in range(kind.num_fields))
    is_text = (types.is_string, types.is_large_string, types.is_string_view)
    is_number = (types.is_integer, types.is_float32, types.is_float64)
    return any(is_it(kind) for is_it in (*is_text, *is_number, types.is_boolean, types.is_null))
