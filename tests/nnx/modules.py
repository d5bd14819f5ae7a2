"""NNX modules of both libraries, from the table of cases of Linen's tests."""

import math

import flax.nnx
import jax
import jax.numpy as jnp
from flax import nnx

import normjax.nnx
from tests.linen.cases import ONE_OF_EACH, PEERED

# What Flax's NNX modules cannot do. Two axes of features in BatchNorm: the
# statistics do not broadcast. Groups of less than all positions: see
# `flaws_test.py`.
PEERED = tuple(
  case
  for case in PEERED
  if case.name not in ("batch_two_axes", "group_of_one_position")
)
PEERED_ONE_OF_EACH = tuple(case for case in ONE_OF_EACH if case in PEERED)
# One of each kind of module. The functions are those of Linen's tests.
SOME = tuple(
  case
  for case in ONE_OF_EACH
  if case.name in ("layer_channels", "group", "batch", "dbn")
)
COLLECTIONS = {"params": nnx.Param, "batch_stats": nnx.BatchStat}


def build(case, library=normjax.nnx, train=True, rngs=None, **options):
  """Returns a module with initial parameters."""
  mode = {"use_running_average": not train} if case.stateful else {}
  num_features = case.num_features
  if library is flax.nnx:
    options.setdefault("use_fast_variance", False)
    num_features = math.prod(jax.tree.leaves(num_features))
  return getattr(library, case.kind)(
    num_features, rngs=rngs or nnx.Rngs(0), **mode, **case.options, **options
  )


def fill(module, variables):
  """Gives a module the variables of Linen; returns it."""
  for tree in variables.values():
    for name, value in tree.items():
      variable = getattr(module, name)
      variable.set_value(value.reshape(variable.get_value().shape))
  return module


def filled(case, library=normjax.nnx, train=True, **options):
  """Returns a module with random parameters and statistics."""
  return fill(build(case, library, train, **options), case.variables())


def pure(state, like=None):
  """Returns a state as Linen's variables, in the shapes of `like`."""
  found = {
    name: nnx.to_pure_dict(nnx.state(state, kind))
    if isinstance(state, nnx.Module)
    else nnx.to_pure_dict(nnx.filter_state(state, kind))
    for name, kind in COLLECTIONS.items()
  }
  found = {name: tree for name, tree in found.items() if tree}
  if like is None:
    return found
  return jax.tree.map(lambda x, y: x.reshape(y.shape), found, like)


@nnx.jit
def call(module, x, mask=None):
  return module(x, mask=mask)


@nnx.jit
def gradients(module, x, mask=None):
  """Returns loss, output, gradients in the module and in `x`."""

  def loss(module, x):
    y = module(x, mask=mask)
    counted = jnp.sin(y) if mask is None else jnp.where(mask, jnp.sin(y), 0)
    return jnp.sum(counted), y

  return nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(module, x)
