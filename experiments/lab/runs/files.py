"""Atomic files: readers see them complete or not at all, even after a crash."""

import contextlib
import io
import json
import math
import os
import pathlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[io.BufferedRandom]:
  """Opens a file that replaces `path` when the block succeeds.

  Any number of processes and threads may do so at once: the last one wins.
  If the block raises, `path` is unchanged and no other file is left.

  Args:
    path: The file to write; its folder is created if missing.

  Yields:
    A binary file for writing and reading.

  Raises:
    OSError: The folder cannot be written, or is full.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"incomplete.{uuid.uuid4().hex}.{path.name}")
  try:
    with temporary.open("x+b") as file:
      yield file
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
  """Replaces a file atomically, also if the machine crashes.

  Args:
    path: The file; its folder is created if missing.
    data: The new content.
  """
  with replacing(pathlib.Path(path)) as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def write_json(path: str | os.PathLike[str], value: object) -> None:
  """Writes `value` as standard JSON, atomically.

  Args:
    path: The file; its folder is created if missing.
    value: Nested dicts, lists, tuples, arrays, scalars and strings. Named
      tuples become objects. NaN and infinities, which JSON does not have,
      become null.

  Raises:
    TypeError: `value` holds something else.
  """
  text = json.dumps(plain(value), indent=2, allow_nan=False)
  write_bytes(path, f"{text}\n".encode())


def read_json(path: pathlib.Path) -> Any | None:
  """Returns the content of a JSON file, or None if it does not exist."""
  return json.loads(path.read_text()) if path.exists() else None


def plain(value: Any) -> Any:
  """Converts `value` to types that JSON has; see `write_json`."""
  if isinstance(value, Mapping):
    return {key: plain(entry) for key, entry in value.items()}
  if hasattr(value, "_asdict"):
    return plain(value._asdict())
  if isinstance(value, list | tuple):
    return [plain(entry) for entry in value]
  if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars.
    return plain(value.tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
