"""One training by several processes, on one host or on many.

Each process runs the same program on its own devices, which together are the
mesh of `devices`. The first process alone writes and prints. What its folder
holds at the start, the others get from it, so that all resume, or refuse to, as
one: hosts need no common file system. They do need the same data, of which the
devices of each get a share.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from experiments.lab.devices import DevicesError
from experiments.lab.flags import Files

# Until a process that no longer answers is given up.
_TIMEOUT_SECONDS = 30


def define(
  values: flags.FlagValues = flags.FLAGS,
) -> Callable[[], None]:
  """Defines the flags.

  Args:
    values: Where to define them.

  Returns:
    A function to call after parsing, before JAX is used: it connects the
    processes, where the command line asks for several. May raise DevicesError.
  """
  distributed = flags.DEFINE_bool(
    "distributed",
    False,
    "Train with several processes, which the cluster (TPU pod, Slurm, Open MPI"
    " and others) knows. Elsewhere, give the next three flags.",
    flag_values=values,
  )
  address = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of the first process, where the others find it.",
    flag_values=values,
  )
  count = flags.DEFINE_integer(
    "num_processes",
    None,
    "How many processes train together.",
    lower_bound=1,
    flag_values=values,
  )
  number = flags.DEFINE_integer(
    "process_id",
    None,
    "Which of them this one is, from 0. Number 0 writes and prints.",
    lower_bound=0,
    flag_values=values,
  )

  def connect() -> None:
    given = [flag.value is not None for flag in (address, count, number)]
    if not (distributed.value or any(given)):
      return
    if any(given) and not all(given):
      raise DevicesError(
        "--coordinator_address, --num_processes and --process_id belong"
        " together; give all three, or only --distributed."
      )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
      jax.distributed.initialize(
        address.value,
        count.value,
        number.value,
        heartbeat_timeout_seconds=_TIMEOUT_SECONDS,
        shutdown_timeout_seconds=_TIMEOUT_SECONDS,
      )
    except (RuntimeError, ValueError) as error:
      raise DevicesError(
        f"The processes could not be connected: {error}"
      ) from error

  return connect


@contextlib.contextmanager
def one_writes(config: Any, files: Files) -> Iterator[Files]:
  """Lets the first process write and print, and no other.

  When another process is lost, this one ends with a message and status 1.

  Args:
    config: The setting, which must be that of the first process.
    files: Where to read and write.

  Yields:
    The same; for other processes, with a folder of their own that starts with
    what the first one's holds, and is removed in the end.

  Raises:
    DevicesError: The processes have different settings; all raise it.
  """
  if jax.process_count() == 1:
    yield files
    return
  try:
    settings = repr((dataclasses.asdict(config), files.resume))
    _check_same("settings", settings, settings.encode())
    packed = _of_first(_pack(files.workdir))
    if jax.process_index() == 0:
      yield files
      return
    with (
      tempfile.TemporaryDirectory() as folder,
      open(os.devnull, "w") as nowhere,
      contextlib.redirect_stdout(nowhere),
    ):
      with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
      yield files._replace(workdir=folder)
  except jax.errors.JaxRuntimeError as error:
    print(
      f"Process {jax.process_index()} stops, since a computation failed that"
      " all processes share; probably another one has ended:"
      f"\n{error}\nStart all of them again with --resume and --workdir.",
      file=sys.stderr,
      flush=True,
    )
    # The usual end would wait for the process that is gone.
    os._exit(1)


def check_same_data(name: str, tree: Any) -> None:
  """Refuses to train on different data.

  Args:
    name: Of the data.
    tree: Their arrays, on the host.

  Raises:
    DevicesError: Another process has other data; all processes raise it.
  """
  if jax.process_count() > 1:
    parts = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    _check_same("data", name, name.encode(), *parts)


def _check_same(what: str, told: str, *parts: bytes) -> None:
  """Raises DevicesError in all processes unless they have the same bytes."""
  digest = hashlib.sha256()
  for part in parts:
    digest.update(part)
  mine = np.frombuffer(digest.digest(), np.uint8)
  found = multihost_utils.process_allgather(mine)
  others = np.flatnonzero((found != found[0]).any(axis=1))
  if others.size:
    raise DevicesError(
      f"Processes 0 and {', '.join(map(str, others))} have different {what};"
      f" process {jax.process_index()} has {told}. Start all with the same."
    )


def _pack(folder: str | None) -> bytes:
  """Returns a tar file of the folder, of nothing where there is none."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as archive:
    if folder and pathlib.Path(folder).is_dir() and not jax.process_index():
      for path in sorted(pathlib.Path(folder).iterdir()):
        archive.add(path, path.name)
  return buffer.getvalue()


def _of_first(data: bytes) -> bytes:
  """Returns what process 0 gives."""
  array = np.frombuffer(data, np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(array.size)))
  if jax.process_index():
    array = np.zeros(size, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(array)).tobytes()
