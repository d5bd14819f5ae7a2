"""Arrays on meshes of explicit axes, where JAX asks how results are sharded.

There the sharding is a part of an array's type. Arithmetic settles it by
itself; choosing between arrays, and regrouping an axis, does not. Elsewhere
these functions are those of `jax.numpy`, or do nothing.
"""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


def is_explicit(*arrays: jax.Array) -> bool:
  """Returns whether an axis of an array is known to be sharded."""
  return any(any(jax.typeof(x).sharding.spec) for x in arrays)


def where(condition: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns `jnp.where(condition, x, y)`, sharded as its arguments are."""
  arrays = condition, x, y
  if not is_explicit(*arrays):
    return jnp.where(condition, x, y)
  shape = jnp.broadcast_shapes(*(array.shape for array in arrays))
  # The values decide before the condition does.
  by_rank = [_spec(array, len(shape)) for array in (x, y, condition)]
  axes = tuple(
    next(filter(None, names), None) for names in zip(*by_rank, strict=True)
  )
  mesh = _mesh(*arrays)
  condition, x, y = [_broadcast(v, shape, axes, mesh) for v in arrays]
  return jnp.where(condition, x, y)


def placed_like(value: jax.Array, other: jax.Array) -> jax.Array:
  """Returns `value` sharded as `other`, which has the same shape."""
  if not is_explicit(value, other):
    return value
  spec = PartitionSpec(*jax.typeof(other).sharding.spec)
  return jax.sharding.reshard(value, NamedSharding(_mesh(value, other), spec))


def gathered(x: jax.Array, axis: int) -> jax.Array:
  """Returns `x` with all of an axis on every device."""
  spec = list(jax.typeof(x).sharding.spec)
  if spec[axis] is None:
    return x
  spec[axis] = None
  return jax.sharding.reshard(x, NamedSharding(_mesh(x), PartitionSpec(*spec)))


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
