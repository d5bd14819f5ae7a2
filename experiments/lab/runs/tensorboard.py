"""TensorBoard event files, written without TensorFlow."""

import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any


class EventLog:
  """Scalars of one or several runs, one folder per run.

  The numbers of a record are scalars at step `epoch` or `step`; a record with
  neither is not shown. A list (one entry per seed) is shown as its mean, in
  which None counts with the last number at that place, if there was one. Text
  and `seed` name the run, so that the norms of a study share a chart.
  """

  def __init__(self, folder: pathlib.Path):
    """Removes old events in `folder`.

    Args:
      folder: Folder for one folder per run.
    """
    self._folder = folder
    self._writers: dict[str, Any] = {}
    # The last numbers of lists, by run and name.
    self._last: dict[tuple[str, str], list[Any]] = {}
    for old in folder.glob("**/events.out.tfevents.*"):
      old.unlink()

  def add(self, record: Mapping[str, Any]) -> None:
    """Adds one record of JSON values."""
    # Protocol buffers are slow to import, and not needed before.
    from tensorboardX.proto import event_pb2, summary_pb2

    step = record.get("epoch", record.get("step"))
    labels = [value for value in record.values() if isinstance(value, str)]
    if "seed" in record:
      labels.append(f"seed{record['seed']}")
    run = "-".join(labels)
    scalars = {
      name: mean
      for name, value in record.items()
      if name not in ("epoch", "step", "seed")
      and (mean := _mean_if_numeric(self._carried(run, name, value)))
      is not None
    }
    if step is None or not scalars:
      return
    values = [
      summary_pb2.Summary.Value(tag=name, simple_value=scalar)
      for name, scalar in scalars.items()
    ]
    writer = self._writer(run)
    writer.write_event(
      event_pb2.Event(
        wall_time=time.time(),
        step=int(step),
        summary=summary_pb2.Summary(value=values),
      )
    )
    writer.flush()

  def _carried(self, run: str, name: str, value: Any) -> Any:
    """Returns the value, with the last numbers in place of None in a list."""
    if not isinstance(value, list):
      return value
    last = self._last.get((run, name), value)
    carried = [
      old if new is None else new for old, new in zip(last, value, strict=True)
    ]
    self._last[run, name] = carried
    return carried

  def _writer(self, run: str) -> Any:
    # SummaryWriter would write in a thread, which loses the last events when
    # the process is killed.
    from tensorboardX.event_file_writer import EventsWriter

    if run not in self._writers:
      folder = self._folder / re.sub(r"[^\w.=+-]", "_", run)
      folder.mkdir(parents=True, exist_ok=True)
      self._writers[run] = EventsWriter(str(folder / "events"))
    return self._writers[run]

  def close(self) -> None:
    for writer in self._writers.values():
      writer.close()
    self._writers.clear()


def _mean_if_numeric(value: Any) -> float | None:
  entries = value if isinstance(value, list) else [value]
  if any(isinstance(entry, bool | str | list | dict) for entry in entries):
    return None
  known = [entry for entry in entries if entry is not None]
  return sum(known) / len(known) if known else None
