"""What a table is: its columns with type and meaning, its key, and the shape that its rows must have.

Tables of a study and tables of units begin with the columns of their key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import polars as pl

from n2g_assets.core.errors import StorageError

Dtype = pl.DataType | type[pl.DataType]

_DUCKDB_TYPES: dict[Dtype, str] = {
    pl.String: "VARCHAR", pl.Binary: "BLOB", pl.Boolean: "BOOLEAN", pl.Int8: "TINYINT", pl.Int32: "INTEGER",
    pl.Int64: "BIGINT", pl.Float32: "REAL", pl.Float64: "DOUBLE", pl.Datetime("us"): "TIMESTAMP",
    pl.List(pl.Int32): "INTEGER[]", pl.List(pl.Int64): "BIGINT[]", pl.List(pl.List(pl.Int32)): "INTEGER[][]",
    pl.List(pl.Float32): "REAL[]", pl.List(pl.Float64): "DOUBLE[]", pl.List(pl.Binary): "BLOB[]",
    pl.List(pl.String): "VARCHAR[]",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column: its name, Polars type, meaning (with its unit), and whether it may be NULL."""

    name: str
    dtype: Dtype
    meaning: str
    nullable: bool = False

    @property
    def duckdb_type(self) -> str:
        """The DuckDB type of the column."""
        return _DUCKDB_TYPES[self.dtype]


@dataclass(frozen=True)
class Table:
    """One table: its columns and its key, and how it is stored."""

    name: str
    row: str
    """What a row is: "one row a" and these words."""
    scope: Literal["study", "layer", "reference"]
    """Whether its slices are kept per study or per layer of a study; a reference table has none."""
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    by_unit: bool = False
    """Whether its rows belong to units; then the database holds those of the study's units alone."""
    published: bool = True
    """Whether the database has it; a table that is too large for that is read from its slices."""

    @cached_property
    def schema(self) -> pl.Schema:
        """The Polars schema, columns in order."""
        return pl.Schema({column.name: column.dtype for column in self.columns})

    def empty(self) -> pl.DataFrame:
        """A frame with this schema and no rows."""
        return pl.DataFrame(schema=self.schema)

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with exactly this table's columns, order and types, sorted by the key.

        Raises:
            StorageError: a column is missing or unknown, a type cannot be cast, or a NULL stands where none may.
        """
        missing = [column.name for column in self.columns if column.name not in frame.columns]
        unknown = [name for name in frame.columns if name not in self.schema]
        if missing or unknown:
            raise StorageError(
                f"Rows for table {self.name} lack columns {missing} and have unknown columns {unknown}: "
                "make the stage write the columns that core/tables.py names."
            )
        try:
            frame = frame.select(self.schema.names()).cast(self.schema)
        except pl.exceptions.PolarsError as error:
            raise StorageError(f"Rows of table {self.name} have a wrong type ({error}): see core/tables.py.") from error
        holes = [column.name for column in self.columns if not column.nullable and frame[column.name].null_count()]
        if holes:
            raise StorageError(f"Rows of table {self.name} are NULL in {holes}, which may not be: see core/tables.py.")
        return frame.sort(self.key, maintain_order=True)


STUDY = Column("study", pl.String, "name of the study: its folder's name")
"""The key of corpus rows, and the first column of every key."""
_UNIT = (
    STUDY,
    Column("layer", pl.Int32, "layer of the unit, from 0"),
    Column("unit", pl.Int32, "index of the unit (its neuron, latent or head) in the layer, from 0"),
    Column("sign", pl.Int8, "+1 reads the activation, -1 the negated activation"),
)


def unit_table(name: str, row: str, key: tuple[str, ...], *columns: Column, published: bool = True) -> Table:
    """A table whose rows belong to units; ``key`` is what tells the rows of one unit apart."""
    whole_key = (*(column.name for column in _UNIT), *key)
    return Table(name, row, "layer", (*_UNIT, *columns), whole_key, by_unit=True, published=published)


def study_table(name: str, row: str, key: tuple[str, ...], *columns: Column) -> Table:
    """A table of a whole study; ``key`` is what tells the study's rows apart."""
    return Table(name, row, "study", (STUDY, *columns), (STUDY.name, *key))


def any_of(reference: str, names: Iterable[str]) -> str:
    """The meaning of a column that holds one of some names, which a table of the database explains."""
    return f"{', '.join(names)}: see table {reference}"
