"""Writing files such that readers see all of one or nothing of it."""

import contextlib
import io
import os
import pathlib
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[io.BufferedRandom]:
  """Opens a file that takes the place of `path` when the block succeeds.

  Any number of processes and threads may do so at once: the last one wins.
  When the block raises, `path` is as it was and nothing else is left.

  Args:
    path: The file to write; its folder is made if missing.

  Yields:
    A binary file to write to, and to read back.

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
