"""The files of a run: whole or absent, and never damaged without a notice.

A file is replaced at once when its new content is complete, so readers see the
old content or the new one, whenever the writer is killed. JSON records and
archives of arrays (`.npz`) have an entry `sha256`, the checksum of all others,
which is compared before anything is used.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_TEMPORARY = ".incomplete."
_CHECKSUM = "sha256"


class DamagedError(ValueError):
  """The file is not as it was written; the message names it."""


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
  temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}.{path.name}")
  try:
    with temporary.open("x+b") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())  # On disk, should the machine crash.
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def remove_incomplete(folder: pathlib.Path) -> None:
  """Removes what killed processes were writing into a folder."""
  for path in folder.glob(f"{_TEMPORARY}*"):
    path.unlink()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
  """Replaces a file atomically.

  Args:
    path: The file; its folder is created if missing.
    data: The new content.
  """
  with replacing(pathlib.Path(path)) as file:
    file.write(data)


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


def write_record(path: pathlib.Path, record: Mapping[str, Any]) -> None:
  """Writes a JSON object with a checksum, atomically.

  Args:
    path, record: As in `write_json`.
  """
  record = plain(record)
  write_json(path, {**record, _CHECKSUM: _checksum(record)})


def read_record(path: pathlib.Path) -> dict[str, Any] | None:
  """Returns what `write_record` wrote, or None if the file does not exist.

  Raises:
    DamagedError: The file is not as it was written.
  """
  try:
    content = path.read_bytes()
  except (FileNotFoundError, NotADirectoryError):
    return None
  try:
    record = json.loads(content)
    expected = record.pop(_CHECKSUM, None)
  except (ValueError, AttributeError, TypeError) as error:
    raise _unreadable(path, error) from error
  if expected is None:
    raise DamagedError(
      f"{path} is damaged, or of an earlier version: it has no checksum."
    )
  if expected != _checksum(record):
    raise DamagedError(f"{path} is damaged: its checksum is another.")
  return record


def write_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
  """Writes arrays for `read_arrays` or `numpy.load`, atomically.

  Args:
    path: The file, with suffix `.npz`; its folder is created if missing.
    arrays: Arrays by name.
  """
  entries: dict[str, Any]
  entries = {name: _storable(array) for name, array in arrays.items()}
  entries[_CHECKSUM] = _checksum_of_arrays(entries)
  with replacing(path) as file:
    np.savez(file, **entries)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray] | None:
  """Returns what `write_arrays` wrote, or None if the file does not exist.

  Arrays of other dtypes than NumPy's, such as bfloat16, are returned as bytes
  (dtype "V2").

  Raises:
    DamagedError: The file is not as it was written.
  """
  try:
    content = path.read_bytes()
  except FileNotFoundError:
    return None
  try:
    with np.load(io.BytesIO(content)) as archive:
      arrays = dict(archive)
    expected = str(arrays.pop(_CHECKSUM))
  # A damaged archive can make its readers raise almost anything.
  except Exception as error:
    raise _unreadable(path, error) from error
  # The checksums of the zip format do not cover its table of contents.
  if expected != _checksum_of_arrays(arrays):
    raise DamagedError(f"{path} is damaged: its checksum is another.")
  return arrays


def _unreadable(path: pathlib.Path, error: Exception) -> DamagedError:
  kind = type(error).__name__
  return DamagedError(f"{path} is damaged: it cannot be read ({kind}).")


def sha256(path: pathlib.Path) -> str:
  """Returns the checksum of a file, as the program `sha256sum` prints it."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


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


def _storable(value: Any) -> np.ndarray:
  array = np.asarray(value)
  is_other = array.dtype.kind == "V"
  return array.view(f"V{array.dtype.itemsize}") if is_other else array


def _checksum_of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name, array in sorted(arrays.items()):
    digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def _checksum(record: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(record).encode()).hexdigest()
