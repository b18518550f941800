"""Rows of metrics as lines of JSON, while a run goes on, and as Parquet, once it is over."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.store.damage import Damaged

Row = dict[str, Any]
_PLAIN = (int, float, str, bool, type(None))
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode_row(row: Mapping[str, Any]) -> bytes:
    """One line of JSON; non-finite numbers as the strings NaN, Infinity, -Infinity (JSON has none)."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return value

    return json.dumps({key: plain(value) for key, value in row.items()}, allow_nan=False).encode() + b"\n"


def timeless(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows without what depends on the clock, NaN as a text, so that equal trainings' rows compare equal."""
    return [
        {name: "NaN" if value != value else value for name, value in row.items() if not name.startswith("time/")}
        for row in rows
    ]


def decode_row(line: bytes) -> Row:
    """The row that `encode_row` wrote. Raises ValueError for anything else."""
    row = json.loads(line)
    step = row.get("step") if isinstance(row, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**63:
        raise ValueError("not a row with a step")
    for name, value in row.items():
        if not isinstance(value, _PLAIN):
            raise ValueError(f"{name} is {type(value).__name__}, not a number")
    return {key: _NON_FINITE.get(value, value) if isinstance(value, str) else value for key, value in row.items()}


def last_values(rows: Iterable[Row]) -> Row:
    """The last value of each metric, and the last step; -1 where there are no rows."""
    last: Row = {"step": -1}
    for row in rows:
        last |= {key: value for key, value in row.items() if value is not None}
    return last


def to_parquet(rows: Sequence[Row], metadata: Mapping[str, str] | None = None) -> bytes:
    """Rows as the content of a Parquet file, null where a row lacks a metric."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row)) or ["step"]
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names}, metadata=metadata)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _column(values: list[Any]) -> Any:
    """An Arrow array of values of one kind, None where there is none. A metric is whole or real, never both.

    Put together by hand: pyarrow.array imports pandas, 60 MB in each process for nothing.
    """
    import numpy as np
    import pyarrow as pa

    def bits(flags: Iterable[bool]) -> bytes:
        return np.packbits(np.fromiter(flags, dtype=bool), bitorder="little").tobytes()

    present = [value for value in values if value is not None]
    if present and all(isinstance(value, str) for value in present):
        texts = [b"" if value is None else value.encode() for value in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        arrow, parts = pa.string(), [ends.tobytes(), b"".join(texts)]
    elif present and all(isinstance(value, bool) for value in present):
        arrow, parts = pa.bool_(), [bits(map(bool, values))]
    elif any(isinstance(value, str | bool) for value in present):
        return pa.array(values)  # which refuses them, and says why
    else:
        kind, arrow = (float, pa.float64()) if any(isinstance(v, float) for v in present) else (int, pa.int64())
        parts = [np.array([0 if value is None else value for value in values], dtype=kind).tobytes()]
    buffers = [bits(value is not None for value in values), *parts]
    return pa.Array.from_buffers(arrow, len(values), [pa.py_buffer(part) for part in buffers])


def read_parquet(path: Path) -> list[Row]:
    """The rows of a Parquet file, a metric that a row lacks left out. Raises Damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, partitioning=None).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise Damaged(path, error) from None
    return [{key: value for key, value in row.items() if value is not None} for row in rows]
