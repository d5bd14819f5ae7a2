"""Arrays that took time to make, kept in files that other runs load.

A file is a line with the SHA-256 of everything after it, then arrays in the
`.npy` format, the fingerprint of what they were made from first. Nothing is
parsed before the checksum matches, so a damaged file cannot be half-used.
"""

import hashlib
import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from experiments.lab import atomic

_CHECKSUM_LINE = hashlib.sha256().digest_size * 2 + 1  # In bytes.


def directory() -> pathlib.Path:
  """Returns the cache folder.

  `$NORMJAX_CACHE_DIR`, else `$XDG_CACHE_HOME/normjax`, else
  `~/.cache/normjax`.
  """
  if chosen := os.environ.get("NORMJAX_CACHE_DIR"):
    return pathlib.Path(chosen).expanduser()
  base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
  return base.expanduser() / "normjax"


def load(name: str, fingerprint: str) -> list[np.ndarray] | None:
  """Returns the arrays saved under a name, if they are still the right ones.

  Args:
    name: What `save` was given.
    fingerprint: Of what the arrays would be made from now.

  Returns:
    The arrays in the order in which they were saved; None when there are none,
    they were made from something else, or the file is damaged or unreadable
    (the last two are logged).
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
        logging.info("What %s was made from has changed: rebuilding.", path)
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

  Any number of processes may save at once: each writes a file of its own and
  renames it, so that readers see all of one or all of another. Where the
  folder cannot be written, a warning is logged, and that is all.

  Args:
    name: A file name without suffix.
    fingerprint: Text that changes with what the arrays were made from.
    arrays: The arrays, of any shape and of any dtype but object.
  """
  path = _path(name)
  try:
    with atomic.replacing(path) as file:
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
      "arrays anew; NORMJAX_CACHE_DIR chooses another folder.",
      path,
      error,
    )


def _path(name: str) -> pathlib.Path:
  return directory() / f"{name}.arrays"


def _checksum(file: io.BufferedIOBase) -> bytes:
  """Returns the first line for the bytes from here to the end of the file."""
  return hashlib.file_digest(file, "sha256").hexdigest().encode() + b"\n"
