"""Several devices for one training: each computes a share of every batch.

Parameters and optimizer state are copied to all devices of a mesh. Each process
keeps its share of the training data, and batches are split among all devices.
The compiler does the rest: a mean over a batch (a loss, a gradient, or a
statistic of batch norm) is a mean over all devices. The numbers are those of
one device, up to the order in which XLA adds.

In this module `mesh=None` means one device, and programs without a mesh.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.lab.errors import RefusedError

PyTree = Any

_PROCESS = "process"
_AXES = (_PROCESS, "device")


class DevicesError(RefusedError):
  """The devices do not fit this run; the message says what to do."""


def define(
  values: flags.FlagValues = flags.FLAGS,
) -> Callable[[int], Mesh | None]:
  """Defines the flags.

  Args:
    values: Where to define them.

  Returns:
    A function to call after parsing. It takes the batch size, returns the mesh
    for the command line, and may raise DevicesError.
  """
  count = flags.DEFINE_integer(
    "devices",
    None,
    "Number of devices per process; each computes an equal share of every"
    " batch. By default as many as divide the batch size.",
    lower_bound=1,
    flag_values=values,
  )
  return lambda batch_size: make_mesh(count.value, batch_size)


def make_mesh(count: int | None, batch_size: int) -> Mesh | None:
  """Returns a mesh of devices with equal shares of a batch.

  Args:
    count: Number of devices per process; None for as many as divide the batch.
    batch_size: Number of examples in a training step.

  Returns:
    The mesh, with one axis for processes and one for their devices; None for
    one device.

  Raises:
    DevicesError: There are fewer devices, or the batch cannot be split among
      them.
  """
  available, processes = jax.local_device_count(), jax.process_count()
  if count is None:
    shares = range(available, 0, -1)
    count = next((n for n in shares if batch_size % (n * processes) == 0), 1)
  if count > available:
    raise DevicesError(
      f"--devices={count} is more than the {available} that JAX finds"
      f" ({jax.default_backend()})."
    )
  total = count * processes
  if batch_size % total:
    among = f"--devices={count}"
    if processes > 1:
      among += f" of each of {processes} processes"
    raise DevicesError(
      f"--batch_size={batch_size} cannot be split among {among}; use a multiple"
      f" of {total}, or leave out --devices."
    )
  if total == 1:
    return None
  chosen = [jax.local_devices(process)[:count] for process in range(processes)]
  return Mesh(np.array(chosen), _AXES)


def describe(mesh: Mesh | None) -> str:
  """Returns a description of the devices, such as "8 devices (cpu)"."""
  if mesh is None:
    return f"1 device ({jax.default_backend()})"
  return f"{mesh.size} devices ({mesh.devices.flat[0].platform})"


def multiple(size: int, mesh: Mesh | None) -> int:
  """Rounds `size` up to a size that splits into equal shares."""
  return size if mesh is None else size + -size % mesh.size


def jit(
  function: Callable[..., PyTree], mesh: Mesh | None, **options: Any
) -> Callable[..., PyTree]:
  """Compiles a function and replicates its results on every device.

  Args:
    function: As in `jax.jit`.
    mesh: The devices.
    **options: Options of `jax.jit`.
  """
  if mesh is not None:
    options["out_shardings"] = NamedSharding(mesh, P())
  return jax.jit(function, **options)


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
  """Copies arrays to every device.

  Args:
    tree: NumPy or JAX arrays, on any device.
    mesh: The devices.
  """
  if mesh is None:
    return jax.tree.map(jnp.asarray, tree)
  everywhere = NamedSharding(mesh, P())

  def put(leaf: Any) -> jax.Array:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      # JAX puts typed keys only on the devices of its own process.
      bits = np.asarray(jax.random.key_data(leaf))
      impl = jax.random.key_impl(leaf)
      return jax.random.wrap_key_data(
        jax.device_put(bits, everywhere), impl=impl
      )
    return jax.device_put(np.asarray(leaf), everywhere)

  return jax.tree.map(put, tree)


def share(tree: PyTree, mesh: Mesh | None) -> PyTree:
  """Copies a share of the examples to the devices of each process.

  A batch fetches examples from other shares when it is drawn.

  Args:
    tree: NumPy arrays, the same in all processes; each process reads only its
      share. The first axis is examples. If they cannot be split equally, every
      process gets all of them.
    mesh: The devices.
  """
  if mesh is None:
    return replicate(tree, mesh)
  processes = mesh.shape[_PROCESS]

  def put(leaf: np.ndarray) -> jax.Array:
    spec = P(_PROCESS) if len(leaf) % processes == 0 else P()
    return jax.make_array_from_callback(
      leaf.shape, NamedSharding(mesh, spec), lambda index: leaf[index]
    )

  return jax.tree.map(put, tree)


def split(batch: PyTree, mesh: Mesh | None) -> PyTree:
  """Splits a batch among the devices, inside a compiled function.

  Args:
    batch: Arrays whose first axis is examples. If they cannot be split equally,
      each device computes all of them.
    mesh: The devices.
  """
  if mesh is None:
    return batch
  size = len(jax.tree.leaves(batch)[0])
  spec = P(_AXES) if size % mesh.size == 0 else P()
  return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, spec))


def join(tree: PyTree, mesh: Mesh | None) -> PyTree:
  """Replicates a tree on all devices, inside a compiled function."""
  if mesh is None:
    return tree
  return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))
