"""A callable for frameworks that hand out batches of a table: Ray Data, Spark, Dask, or a loop of one's own.

    dataset.map_batches(map_batches("sentiment", column="text"), batch_format="numpy")      # Ray Data
    frame.mapInPandas(lambda frames: map(map_batches("sentiment", column="text"), frames), schema)  # Spark

A batch is a dict of arrays, an Arrow table or record batch, or a pandas frame; the same comes back, with the outputs as
new columns.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from millrace_client.client import DEFAULT_RETRIES, DEFAULT_TIMEOUT_S, Client
from millrace_client.errors import InvalidRequest
from millrace_client.models import DTYPES

_ROWS = 1024  # in one request, unless the caller says otherwise


class map_batches:  # noqa: N801 - it is used as a function
    """Asks a model for every row of a batch. It can be pickled: its client is made where it is first called.

    `column` feeds a model with one input; `columns` says for each input which column feeds it; without both, each input
    takes the column of its name. `prefix` begins the names of the new columns. `rows` is how many go into one request.
    `url`, `timeout_s` and `retries` are those of `Client`.
    """

    def __init__(
        self,
        model: str,
        *,
        column: str | None = None,
        columns: Mapping[str, str] | None = None,
        prefix: str = "",
        rows: int = _ROWS,
        url: str | None = None,
        version: int | str | None = None,
        label: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
    ) -> None:
        if column is not None and columns:
            raise ValueError("use either column or columns")
        self._model, self._column, self._columns = model, column, dict(columns or {})
        self._prefix, self._rows = prefix, rows
        self._which: dict[str, Any] = {"version": version, "label": label}
        self._client_options: dict[str, Any] = {"timeout_s": timeout_s, "retries": retries}
        self._url = url
        self._client: Client | None = None

    def __call__(self, batch: Any) -> Any:
        """The batch with the outputs. Raises the errors of `millrace_client.errors`."""
        if isinstance(batch, Mapping):
            return {**batch, **self._outputs(batch)}
        if hasattr(batch, "to_pydict"):  # an Arrow table or record batch
            return _with_arrow(batch, self._outputs({name: _array(batch[name]) for name in batch.schema.names}))
        if hasattr(batch, "assign"):  # a pandas frame
            outputs = self._outputs({str(name): batch[name].to_numpy() for name in batch.columns})
            return batch.assign(**{name: list(values) for name, values in outputs.items()})
        raise TypeError(
            f"a batch is a dict of arrays, an Arrow table or a pandas frame, and not {type(batch).__name__}"
        )

    def close(self) -> None:
        """Close its connections, which it opens again when it is called; it does so itself when it is forgotten."""
        client, self._client = self._client, None
        if client:
            client.close()

    def __del__(self) -> None:
        if "_client" in self.__dict__:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None}

    def _outputs(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        count = len(next(iter(columns.values()), ()))
        if not count:
            return self._empty()
        parts = [self._ask(columns, start, min(start + self._rows, count)) for start in range(0, count, self._rows)]
        return {self._prefix + name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _empty(self) -> dict[str, Any]:
        """Outputs for no rows: frameworks want the same columns of every batch, also of an empty one."""
        specs = self._connected().metadata(self._model, **self._which).outputs
        return {
            self._prefix + spec.name: np.empty(
                [0, *(max(1, size) for size in spec.shape[1:])], DTYPES.get(spec.datatype, np.float32)
            )
            for spec in specs
        }

    def _ask(self, columns: Mapping[str, Any], start: int, end: int) -> Mapping[str, Any]:
        client = self._connected()
        if not self._columns:
            self._columns = self._found(client, columns)
        try:
            inputs = {name: _stacked(columns[column][start:end]) for name, column in self._columns.items()}
        except KeyError as error:
            raise InvalidRequest(f"the batch has no column {error}; it has {', '.join(map(repr, columns))}") from None
        return client.predict(self._model, inputs, **self._which).outputs

    def _connected(self) -> Client:
        if self._client is None:
            self._client = Client(self._url, **self._client_options)
        return self._client

    def _found(self, client: Client, columns: Mapping[str, Any]) -> dict[str, str]:
        """Which column feeds each input, by the model's metadata."""
        metadata = client.metadata(self._model, **self._which)
        required = metadata.required_inputs
        if self._column is None:
            return {spec.name: spec.name for spec in metadata.inputs if spec in required or spec.name in columns}
        if len(required) != 1:
            raise InvalidRequest(f"model {self._model!r} needs {len(required)} inputs: use columns")
        return {required[0].name: self._column}


def _array(column: Any) -> Any:
    """An Arrow column as an array; texts stay Python's own."""
    values = column.to_pylist()
    return np.array(values, dtype=object) if values and isinstance(values[0], str | bytes) else np.array(values)


def _stacked(values: Any) -> Any:
    """Rows that are lists or arrays as one array; others as they are."""
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    return np.stack([np.asarray(row) for row in array]) if _holds_rows(array) else array


def _holds_rows(array: Any) -> bool:
    return array.dtype == object and len(array) > 0 and isinstance(array[0], list | tuple | np.ndarray)


def _with_arrow(batch: Any, outputs: Mapping[str, Any]) -> Any:
    kept = {name: batch.column(name) for name in batch.schema.names}
    return type(batch).from_pydict(kept | {name: _arrow(values) for name, values in outputs.items()})


def _arrow(values: Any) -> Any:
    """An output as an Arrow column, of the same type also where it has no rows."""
    pyarrow = importlib.import_module("pyarrow")
    if not len(values) and values.dtype == object:
        return pyarrow.array([], pyarrow.string())
    if not len(values):
        return _arrow(np.zeros((1, *values.shape[1:]), values.dtype)).slice(0, 0)
    return pyarrow.array(values if values.ndim == 1 else list(values) if values.ndim == 2 else values.tolist())
