"""One training by several processes, on one host or on many.

Each process runs the same program on its own devices, which together are the
mesh of `devices`. Only the first process writes and prints. It sends the
contents of its folder to the others at the start, so that all processes resume
or refuse together. The hosts need no common file system, but they need the same
data; the devices of each process get a share of it.
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

from experiments.lab.runs.workdir import Files
from experiments.lab.training.devices import DevicesError

# Timeout for a process that does not answer.
_TIMEOUT_SECONDS = 30


def define(
  values: flags.FlagValues = flags.FLAGS,
) -> Callable[[], None]:
  """Defines the flags.

  Args:
    values: Where to define them.

  Returns:
    A function to call after parsing and before JAX is used. It connects the
    processes if the command line sets several, and may raise DevicesError.
  """
  distributed = flags.DEFINE_bool(
    "distributed",
    False,
    "Train with several processes, which the cluster (TPU pod, Slurm, Open MPI"
    " and others) describes. Elsewhere, set --coordinator_address,"
    " --num_processes and --process_id.",
    flag_values=values,
  )
  address = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of the first process, to which the others connect.",
    flag_values=values,
  )
  count = flags.DEFINE_integer(
    "num_processes",
    None,
    "Number of processes that train together.",
    lower_bound=1,
    flag_values=values,
  )
  number = flags.DEFINE_integer(
    "process_id",
    None,
    "Number of this process, counted from 0. Process 0 writes and prints.",
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
  """Lets only the first process write and print.

  If another process is lost, this one exits with a message and status 1.

  Args:
    config: The settings, which must be those of the first process.
    files: Where to read and write.

  Yields:
    `files`. Other processes get a temporary folder of their own, a copy of the
    first one's, which is removed at the end.

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
      f"Process {jax.process_index()} stops because a computation of all"
      " processes failed; probably another one has ended:"
      f"\n{error}\nStart all of them again with --resume and --workdir.",
      file=sys.stderr,
      flush=True,
    )
    # A normal exit would wait for the lost process.
    os._exit(1)


def check_same_data(name: str, tree: Any) -> None:
  """Checks that all processes have the same data.

  Args:
    name: Name of the data.
    tree: Arrays of the data, on the host.

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
  """Returns a tar file of the folder; it is empty without a folder."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as archive:
    if folder and pathlib.Path(folder).is_dir() and not jax.process_index():
      for path in sorted(pathlib.Path(folder).iterdir()):
        archive.add(path, path.name)
  return buffer.getvalue()


def _of_first(data: bytes) -> bytes:
  """Returns the data of process 0 in all processes."""
  array = np.frombuffer(data, np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(array.size)))
  if jax.process_index():
    array = np.zeros(size, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(array)).tobytes()
