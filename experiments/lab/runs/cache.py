"""A cache of arrays that take long to compute, in files that all runs share.

A file is a line with the SHA-256 of everything after it, then arrays in the
`.npy` format; the first array is the fingerprint of their source. Nothing is
parsed before the checksum matches, so a damaged file is never used in part.
"""

import hashlib
import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from experiments.lab.runs import files

_CHECKSUM_LINE = hashlib.sha256().digest_size * 2 + 1  # In bytes.


def directory() -> pathlib.Path:
  """Returns the cache folder.

  It is `$NORMJAX_CACHE_DIR`, or else `$XDG_CACHE_HOME/normjax`, or else
  `~/.cache/normjax`.
  """
  if chosen := os.environ.get("NORMJAX_CACHE_DIR"):
    return pathlib.Path(chosen).expanduser()
  base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
  return base.expanduser() / "normjax"


def load(name: str, fingerprint: str) -> list[np.ndarray] | None:
  """Returns the arrays saved under a name, if they are up to date.

  Args:
    name: The name given to `save`.
    fingerprint: Fingerprint of the current source of the arrays.

  Returns:
    The arrays in the order in which they were saved. None if there are none,
    their source has changed, or the file is damaged or unreadable (which is
    logged).
  """
  path = _path(name)
  try:
    with path.open("rb") as file:
      checksum = file.read(_CHECKSUM_LINE)
      if checksum != _checksum(file):
        logging.warning("The cache file %s is damaged: rebuilding it.", path)
        return None
      size = file.tell()
      file.seek(_CHECKSUM_LINE)
      if str(np.load(file)) != fingerprint:
        logging.info("The source of %s has changed: rebuilding it.", path)
        return None
      arrays = []
      while file.tell() < size:
        arrays.append(np.load(file))
      return arrays
  except FileNotFoundError:
    return None
  except OSError as error:
    logging.warning("Cannot read the cache file %s: %s.", path, error)
    return None


def save(name: str, fingerprint: str, arrays: Sequence[np.ndarray]) -> None:
  """Saves arrays under a name, for `load` with the same fingerprint.

  Any number of processes may save at once: each writes its own file and renames
  it, so readers always see one complete file. If the folder cannot be written,
  a warning is logged and nothing else happens.

  Args:
    name: A file name without suffix.
    fingerprint: Text that changes when the source of the arrays changes.
    arrays: The arrays, of any shape and of any dtype except object.
  """
  path = _path(name)
  try:
    with files.replacing(path) as file:
      file.write(b" " * _CHECKSUM_LINE)
      for array in (np.array(fingerprint), *arrays):
        np.save(file, array, allow_pickle=False)
      file.seek(_CHECKSUM_LINE)
      checksum = _checksum(file)
      file.seek(0)
      file.write(checksum)
  except OSError as error:
    logging.warning(
      "Cannot write the cache file %s: %s. The next run will prepare the "
      "arrays again; NORMJAX_CACHE_DIR sets another folder.",
      path,
      error,
    )


def _path(name: str) -> pathlib.Path:
  return directory() / f"{name}.arrays"


def _checksum(file: io.BufferedIOBase) -> bytes:
  """Returns the checksum line for the rest of the file from here on."""
  return hashlib.file_digest(file, "sha256").hexdigest().encode() + b"\n"
