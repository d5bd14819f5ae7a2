"""Operations on arrays that are sharded over meshes with explicit axes.

On such meshes the sharding is part of an array's type. Arithmetic infers the
sharding of its result. `where` and reshaping an axis do not, so it must be
given. For other arrays these functions are those of `jax.numpy`, or do nothing.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

_Array = TypeVar("_Array", jax.Array, jax.Array | None)


def is_explicit(*arrays: jax.Array) -> bool:
  """Returns whether an array is sharded over an explicit axis of a mesh."""
  return any(any(jax.typeof(x).sharding.spec) for x in arrays)


def where(condition: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns `jnp.where(condition, x, y)`, sharded like its arguments."""
  arrays = condition, x, y
  if not is_explicit(*arrays):
    return jnp.where(condition, x, y)
  shape = jnp.broadcast_shapes(*(array.shape for array in arrays))
  # If shardings differ, that of the values is preferred to the condition's.
  by_rank = [_spec(array, len(shape)) for array in (x, y, condition)]
  axes = tuple(
    next(filter(None, names), None) for names in zip(*by_rank, strict=True)
  )
  mesh = _mesh(*arrays)
  condition, x, y = [_broadcast(v, shape, axes, mesh) for v in arrays]
  return jnp.where(condition, x, y)


def placed_like(value: jax.Array, other: jax.Array) -> jax.Array:
  """Returns `value` sharded like `other`, which has the same shape."""
  if not is_explicit(value, other):
    return value
  spec = PartitionSpec(*jax.typeof(other).sharding.spec)
  return jax.sharding.reshard(value, NamedSharding(_mesh(value, other), spec))


def gathered(x: jax.Array, axis: int) -> jax.Array:
  """Returns `x` with the whole of an axis on every device."""
  spec = list(jax.typeof(x).sharding.spec)
  if spec[axis] is None:
    return x
  spec[axis] = None
  return jax.sharding.reshard(x, NamedSharding(_mesh(x), PartitionSpec(*spec)))


def whole(x: jax.Array) -> jax.Array:
  """Returns `x` with all of its axes whole on every device."""
  return x if not is_explicit(x) else jax.sharding.reshard(x, everywhere(x))


def everywhere(x: jax.Array) -> NamedSharding | None:
  """Returns the sharding of what every device has; None if none is needed."""
  return NamedSharding(_mesh(x), PartitionSpec()) if is_explicit(x) else None


def split_first(x: _Array, parts: int) -> _Array:
  """Returns `x` with its first axis split; a size of one becomes two ones.

  If that axis is sharded, the parts are. Their number must be a multiple of
  that of the devices.
  """
  if x is None:
    return None
  size, *others = x.shape
  shape = (1, 1, *others) if size == 1 else (parts, size // parts, *others)
  if not is_explicit(x):
    return x.reshape(shape)
  names = tuple(jax.typeof(x).sharding.spec)
  spec = PartitionSpec(names[0], None, *names[1:])
  return jax.lax.reshape(x, shape, out_sharding=NamedSharding(_mesh(x), spec))


def _mesh(*arrays: jax.Array) -> jax.sharding.AbstractMesh:
  meshes = (jax.typeof(x).sharding.mesh for x in arrays)
  return next(mesh for mesh in meshes if not mesh.empty)


def _spec(x: jax.Array, rank: int) -> tuple[object, ...]:
  return (None,) * (rank - x.ndim) + tuple(jax.typeof(x).sharding.spec)


def _broadcast(
  x: jax.Array,
  shape: tuple[int, ...],
  axes: tuple[object, ...],
  mesh: jax.sharding.AbstractMesh,
) -> jax.Array:
  own = axes[len(shape) - x.ndim :]
  spec = (
    name if size > 1 else None for name, size in zip(own, x.shape, strict=True)
  )
  x = jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*spec)))
  if x.shape == shape:
    return x
  whole = NamedSharding(mesh, PartitionSpec(*axes))
  return jnp.broadcast_to(x, shape, out_sharding=whole)
