"""The rows of a table as records, made when they are asked for: a million of them take the room of their columns."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    import pyarrow as pa

Row = TypeVar("Row")
_BATCH = 8192  # rows made at a time


class TableRows(Sequence[Row], Generic[Row]):
    """The rows of an Arrow table, each made by `make` of its values in the order of the columns."""

    def __init__(self, table: "pa.Table", make: Callable[..., Row]):
        self.table, self._make = table, make

    def __len__(self) -> int:
        return self.table.num_rows

    def __iter__(self) -> Iterator[Row]:
        for batch in self.table.to_batches(max_chunksize=_BATCH):
            columns = [column.to_pylist() for column in batch.columns]
            yield from map(self._make, *columns)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = index % len(self)
        return self._make(*(column[place].as_py() for column in self.table.columns))

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, TableRows):
            return self.table.equals(other.table)
        return isinstance(other, list) and list(self) == other

    __hash__ = None  # type: ignore[assignment]
