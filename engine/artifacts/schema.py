"""Table schemas as plain data, so that declaring one imports nothing heavy."""

from typing import Literal

ColumnType = Literal["str", "i64", "i32", "f64", "bool", "list[str]"]
TableSchema = dict[str, ColumnType]
"""Column name → type, in the order the table is written."""
