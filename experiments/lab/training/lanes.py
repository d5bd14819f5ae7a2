"""Maps a function of one lane over many lanes.

A lane is one training among several that run at once: one seed, or one pair of
a learning rate and a seed. Both functions here do the same as `jax.vmap`; which
one is faster depends on the mapped function.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
# 0 for arguments that are mapped over their leading axis, None for the others.
InAxes = Sequence[int | None]


def vmapped(
  function: Callable[..., PyTree], in_axes: InAxes
) -> Callable[..., PyTree]:
  """Maps with `jax.vmap`, except for a single lane.

  On CPUs a batch axis of size one makes an epoch of matrix products take a
  third longer.

  Args:
    function: Function of arrays or trees of arrays.
    in_axes: As in `jax.vmap`.
  """

  def mapped(*args: PyTree) -> PyTree:
    mapping = unrolled if _count(args, in_axes) == 1 else jax.vmap
    return mapping(function, in_axes)(*args)

  return mapped


def unrolled(
  function: Callable[..., PyTree], in_axes: InAxes
) -> Callable[..., PyTree]:
  """Maps with one copy of the function per lane.

  Args:
    function: Function of arrays or trees of arrays.
    in_axes: As in `jax.vmap`.
  """

  def mapped(*args: PyTree) -> PyTree:
    def entry(index: int) -> PyTree:
      return function(
        *(
          arg if axis is None else jax.tree.map(lambda x: x[index], arg)
          for arg, axis in zip(args, in_axes, strict=True)
        )
      )

    return jax.tree.map(
      lambda *entries: jnp.stack(entries),
      *map(entry, range(_count(args, in_axes))),
    )

  return mapped


def one_by_one(
  function: Callable[..., PyTree], in_axes: InAxes
) -> Callable[..., PyTree]:
  """Calls a function of lanes for each lane on its own.

  Unlike the functions above it is not to be compiled: it calls a compiled
  function, whose program is then that of one lane.

  Args:
    function: Function of arrays with a leading axis of lanes.
    in_axes: As in `jax.vmap`.

  >>> double = lambda x, seen: (seen.append(len(x)), 2 * x)[1]
  >>> seen = []
  >>> one_by_one(double, (0, None))(jnp.arange(3), seen), seen
  (Array([0, 2, 4], dtype=int32), [1, 1, 1])
  """

  def mapped(*args: PyTree) -> PyTree:
    count = _count(args, in_axes)
    if count == 1:
      return function(*args)
    of_lanes = [arg for arg, a in zip(args, in_axes, strict=True) if a == 0]
    found = []
    for own in _split(count, of_lanes):
      rest = iter(own)
      found.append(
        function(
          *(
            next(rest) if axis == 0 else arg
            for arg, axis in zip(args, in_axes, strict=True)
          )
        )
      )
    return _joined(found)

  return mapped


# Compiled as a whole, because there are many small arrays.
@functools.partial(jax.jit, static_argnums=0)
def _split(count: int, tree: PyTree) -> list[PyTree]:
  """Returns the arrays of every lane, each with an axis of one lane."""
  return [
    jax.tree.map(lambda x, at=at: x[at : at + 1], tree) for at in range(count)
  ]


@jax.jit
def _joined(parts: Sequence[PyTree]) -> PyTree:
  return jax.tree.map(lambda *entries: jnp.concatenate(entries), *parts)


def check(own: PyTree, count: int) -> None:
  """Raises ValueError if arrays of lanes have another number of lanes.

  Args:
    own: Arrays with a leading axis of lanes; None fits any number.
    count: Number of lanes of the state or the variables.
  """
  found = {len(leaf) for leaf in jax.tree.leaves(own)} - {count}
  if found:
    raise ValueError(
      f"The examples are those of {found.pop()} lanes, but there are {count}"
      " lanes to train or evaluate; split the pool by the same seeds, and by"
      " the same number of rates."
    )


def one(tree: PyTree, lane: int) -> PyTree:
  """Returns the arrays of one lane."""
  return jax.tree.map(lambda leaf: leaf[lane], tree)


def by_rate(found: Mapping[str, Any], rates: int) -> dict[str, np.ndarray]:
  """Returns arrays `[rates, seeds, ...]` of arrays `[lanes, ...]`, by name.

  >>> by_rate({"loss": np.arange(4)}, 2)
  {'loss': array([[0, 1],
         [2, 3]])}
  """
  return {
    name: np.reshape(values, (rates, -1, *np.shape(values)[1:]))
    for name, values in found.items()
  }


def each(
  train: Callable[[float, int], Mapping[str, Any]],
  rates: Sequence[float],
  seeds: Sequence[int],
) -> dict[str, np.ndarray]:
  """Trains every seed at every rate, one after the other.

  Args:
    train: Called as `train(rate, seed)`, returns arrays by name.
    rates, seeds: Learning rates, and seeds for each.

  Returns:
    Arrays `[rates, seeds, ...]`.

  >>> each(lambda rate, seed: {"loss": rate * seed}, [1, 10], [2, 3])
  {'loss': array([[ 2,  3],
         [20, 30]])}
  """
  found = [train(rate, seed) for rate in rates for seed in seeds]
  joined = {name: np.stack([one[name] for one in found]) for name in found[0]}
  return by_rate(joined, len(rates))


def per_lane(values: Sequence[float], seeds: int) -> jax.Array:
  """Repeats one value per group of seeds to one float32 value per lane.

  >>> per_lane([0.5, 2.0], seeds=3)
  Array([0.5, 0.5, 0.5, 2. , 2. , 2. ], dtype=float32)
  """
  return jnp.repeat(jnp.asarray(values, jnp.float32), seeds)


def _count(args: Sequence[PyTree], in_axes: InAxes) -> int:
  return len(jax.tree.leaves(args[in_axes.index(0)])[0])
