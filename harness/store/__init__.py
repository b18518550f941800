"""The run directory: every file it holds is written and read here only.

    OUT/sweep.yaml                  the sweep file as given
    OUT/index.parquet               one row a run, rebuilt from the runs at will
    OUT/runs/RUN_ID/config.json     resolved configuration and provenance, written before step 0
    OUT/runs/RUN_ID/metrics.jsonl   one append per row while running, sealed to metrics.parquet at the end
    OUT/runs/RUN_ID/checkpoint.pt   the latest state, tensors and plain values only
    OUT/runs/RUN_ID/outcome.json    written last, by rename: its presence means finished
    OUT/runs/RUN_ID/timelines.npz   which units of which layer were dead when, for presets that read layers
    OUT/runs/RUN_ID/failure.json    state failed: reason and traceback
    OUT/runs/RUN_ID/evaluations.json  what `harness evaluate` found
    OUT/runs/RUN_ID/lease-N         of the N-th process that works on the run: who it is, and its heartbeat

A row that `append` has returned for survives SIGKILL. A damaged file is set aside, never read past.
"""

from harness.store.columns import flat, numbers_of, text_of
from harness.store.damage import Damaged
from harness.store.lease import Locked, Lost, holder
from harness.store.output_folder import (
    Index,
    adopt,
    by_identity,
    folders,
    index,
    index_row,
    runs,
    sweep_text,
    take_for,
    write_index,
    write_sweep_text,
)
from harness.store.rows import Row, decode_row, encode_row, timeless
from harness.store.run_directory import RunDirectory, State
from harness.store.verification import verify

__all__ = [
    "Damaged",
    "Index",
    "Locked",
    "Lost",
    "Row",
    "RunDirectory",
    "State",
    "adopt",
    "by_identity",
    "decode_row",
    "encode_row",
    "flat",
    "folders",
    "holder",
    "index",
    "index_row",
    "numbers_of",
    "runs",
    "sweep_text",
    "take_for",
    "text_of",
    "timeless",
    "verify",
    "write_index",
    "write_sweep_text",
]
