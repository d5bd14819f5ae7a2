"""The metrics of a run: one line per record, and TensorBoard event files."""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import IO, Self

from experiments.lab.runs import files, tensorboard


class MetricsLog:
  """The metrics of a run, in `metrics.jsonl` and for TensorBoard.

  A record is a dict of JSON values, such as `{"norm": "ln", "epoch": 3,
  "train_loss": [0.11, 0.12], "seconds": 1.7}`. Each becomes one line of the
  file; `tensorboard.EventLog` says how TensorBoard shows it. If the process is
  killed, both are complete up to the last record.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    records: Iterable[Mapping[str, object]] = (),
  ):
    """Starts both logs with exactly `records`.

    Args:
      workdir: Folder for `metrics.jsonl` and the folder `tensorboard`.
      records: Records of the run's last checkpoint. Later records of a killed
        run are dropped, because they will come again.
    """
    workdir = pathlib.Path(workdir)
    records = list(records)
    path = workdir / "metrics.jsonl"
    files.write_bytes(path, "".join(map(_json_line, records)).encode())
    self._events = tensorboard.EventLog(workdir / "tensorboard")
    for record in records:
      self._events.add(files.plain(record))
    self._file: IO[str] = path.open("a", encoding="utf-8")

  def append(self, record: Mapping[str, object]) -> None:
    """Adds one record.

    Args:
      record: Dict of JSON values, and NumPy or JAX arrays. NaN and infinities
        become null.
    """
    self._file.write(_json_line(record))
    self._file.flush()
    self._events.add(files.plain(record))

  def close(self) -> None:
    self._file.close()
    self._events.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()


def _json_line(record: Mapping[str, object]) -> str:
  return json.dumps(files.plain(record), allow_nan=False) + "\n"
