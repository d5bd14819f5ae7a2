"""One training by several processes, on one host or on many.

Each process runs the same program on its own devices, which together are the
mesh of `devices`. Only the first process writes and prints. It sends the
contents of its folder to the others at the start, so that all processes resume
from the same files; if it is refused the folder, all are. The hosts need no
common file system, but they need the same data; the devices of each process get
a share of it.
"""

import contextlib
import hashlib
import io
import os
import pathlib
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from experiments.lab.errors import RefusedError
from experiments.lab.runs import ending
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
def one_writes(
  settings: str, opened: contextlib.AbstractContextManager[pathlib.Path]
) -> Iterator[pathlib.Path]:
  """Lets only the first process write and print.

  If another process is lost, this one exits with a message and status 1.

  Args:
    settings: Text that must be the same in all processes.
    opened: Opens the folder of the run; only the first process enters it.

  Yields:
    The folder. Other processes get a temporary folder of their own, a copy of
    the first one's, which is removed at the end.

  Raises:
    RefusedError: The processes have different settings, or the first one cannot
      have the folder; all raise it.
  """
  if jax.process_count() == 1:
    with opened as folder:
      yield folder
    return
  try:
    _check_same("settings", settings, settings.encode())
    with contextlib.ExitStack() as stack:
      folder, refusal = pathlib.Path(), ""
      if jax.process_index() == 0:
        try:
          folder = stack.enter_context(opened)
        except RefusedError as error:
          refusal = str(error)
      refusal = _of_first(refusal.encode()).decode()
      if refusal:
        raise RefusedError(refusal)
      packed = _of_first(_pack(folder))
      if jax.process_index():
        folder = stack.enter_context(ending.temporary_folder())
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
          archive.extractall(folder, filter="data")
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
      yield folder
  except jax.errors.JaxRuntimeError as error:
    # A normal exit would wait for the lost process.
    ending.at_once(
      1,
      f"Process {jax.process_index()} stops because a computation of all"
      " processes failed; probably another one has ended:"
      f"\n{error}\nStart all of them again with --resume and --workdir.",
    )


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


def _pack(folder: pathlib.Path) -> bytes:
  """Returns a tar file of the folder; of the first process only."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as archive:
    if jax.process_index() == 0:
      for path in sorted(folder.iterdir()):
        archive.add(path, path.name)
  return buffer.getvalue()


def _of_first(data: bytes) -> bytes:
  """Returns the data of process 0 in all processes."""
  array = np.frombuffer(data, np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(array.size)))
  if jax.process_index():
    array = np.zeros(size, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(array)).tobytes()
