"""The JAX libraries of `benchmarks.norms`, behind one interface.

Each `load_...` imports its library and returns its layers. It raises
ImportError if the library is not installed. All libraries get the same epsilon,
momentum, parameters and running statistics. Other options have their defaults.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import normjax
from benchmarks import norm_flax
from benchmarks.norm_cases import EPSILON, MOMENTUM, Case
from benchmarks.norm_layer import (
  Layer,
  Layers,
  Params,
  Statistics,
  running_statistics,
  stateless,
)


def load_normjax() -> Layers:
  def layer_norm(case: Case) -> Layer:
    axis = case.channel_axis
    return stateless(
      lambda x, scale, bias: normjax.layer_norm(
        x,
        scale,
        bias,
        reduction_axes=axis,
        feature_axes=axis,
        epsilon=EPSILON,
      )
    )

  def rms_norm(case: Case) -> Layer:
    axis = case.channel_axis
    return stateless(
      lambda x, scale: normjax.rms_norm(
        x, scale, reduction_axes=axis, feature_axes=axis, epsilon=EPSILON
      )
    )

  def batch_norm(case: Case) -> Layer:
    def apply(
      x: jax.Array, params: Params, stats: normjax.BatchStats
    ) -> tuple[jax.Array, normjax.BatchStats]:
      scale, bias = params
      return normjax.batch_norm(
        x,
        scale,
        bias,
        stats,
        use_running_average=case.norm == "batch-eval",
        axis=case.channel_axis,
        momentum=MOMENTUM,
        epsilon=EPSILON,
      )

    return Layer(apply, normjax.BatchStats(*running_statistics(case)))

  def group_norm(case: Case) -> Layer:
    return stateless(
      lambda x, scale, bias: normjax.group_norm(
        x,
        scale,
        bias,
        num_groups=case.groups,
        channel_axis=case.channel_axis,
        epsilon=EPSILON,
      )
    )

  def instance_norm(case: Case) -> Layer:
    return stateless(
      lambda x, scale, bias: normjax.instance_norm(
        x, scale, bias, channel_axis=case.channel_axis, epsilon=EPSILON
      )
    )

  return {
    "layer": layer_norm,
    "rms": rms_norm,
    "batch": batch_norm,
    "batch-eval": batch_norm,
    "group": group_norm,
    "instance": instance_norm,
  }


def load_haiku() -> Layers:
  import haiku as hk

  def transformed(case: Case, make: Callable[[], Any]) -> Any:
    call = {}
    if case.norm.startswith("batch"):
      call["is_training"] = case.norm == "batch"
    return hk.transform_with_state(lambda x: make()(x, **call))

  def layer(case: Case, make: Callable[[], Any]) -> Layer:
    # The shapes of parameters depend on the channels only. Running statistics
    # are created only in training.
    first = case._replace(
      norm=case.norm.removesuffix("-eval"),
      shape=(1,) * (len(case.shape) - 1) + (case.channels,),
    )
    shapes, stats = transformed(first, make).init(
      None, jnp.zeros(first.array_shape, case.dtype)
    )
    ((module, shapes),) = shapes.items()
    if stats:
      values = zip(("mean", "var"), running_statistics(case), strict=True)
      for name, value in values:
        average = stats[f"{module}/~/{name}_ema"]
        value = value.reshape(average["average"].shape).astype(case.dtype)
        average["hidden"] = average["average"] = value
    pure = transformed(case, make)

    def apply(
      x: jax.Array, params: Params, stats: Statistics
    ) -> tuple[jax.Array, Statistics]:
      # Haiku computes in the dtype of its parameters.
      named = {
        name: value.astype(case.dtype).reshape(shapes[name].shape)
        for name, value in zip(("scale", "offset"), params, strict=False)
      }
      return pure.apply({module: named}, stats, None, x)

    return Layer(apply, stats)

  def data_format(case: Case) -> str:
    return f"channels_{case.layout}"

  def layer_norm(case: Case) -> Layer:
    axis = case.channel_axis % len(case.shape)
    return layer(
      case, lambda: hk.LayerNorm(axis, True, True, EPSILON, param_axis=axis)
    )

  def rms_norm(case: Case) -> Layer:
    axis = case.channel_axis % len(case.shape)
    return layer(case, lambda: hk.RMSNorm(axis, EPSILON, param_axis=axis))

  def batch_norm(case: Case) -> Layer:
    return layer(
      case,
      lambda: hk.BatchNorm(
        True, True, MOMENTUM, EPSILON, data_format=data_format(case)
      ),
    )

  def group_norm(case: Case) -> Layer:
    return layer(
      case,
      lambda: hk.GroupNorm(
        case.groups, eps=EPSILON, data_format=data_format(case)
      ),
    )

  def instance_norm(case: Case) -> Layer:
    return layer(
      case,
      lambda: hk.InstanceNorm(
        True, True, EPSILON, data_format=data_format(case)
      ),
    )

  return {
    "layer": layer_norm,
    "rms": rms_norm,
    "batch": batch_norm,
    "batch-eval": batch_norm,
    "group": group_norm,
    "instance": instance_norm,
  }


def load_equinox() -> Layers:
  import equinox as eqx

  def with_parameters(module: Any, params: Params) -> Any:
    if len(params) == 1:
      return eqx.tree_at(lambda m: m.weight, module, params[0])
    return eqx.tree_at(lambda m: (m.weight, m.bias), module, tuple(params))

  def mapped(module: eqx.Module, case: Case, axes: int) -> Layer:
    """Maps a module for one example over the leading axes."""

    def function(x: jax.Array, *params: jax.Array) -> jax.Array:
      call = with_parameters(module, params)
      for _ in range(axes):
        call = jax.vmap(call)
      return call(x)

    return stateless(function)

  def layer_norm(case: Case) -> Layer | None:
    if case.layout == "first":
      return None
    module = eqx.nn.LayerNorm(case.channels, EPSILON)
    return mapped(module, case, len(case.shape) - 1)

  def rms_norm(case: Case) -> Layer | None:
    if case.layout == "first":
      return None
    module = eqx.nn.RMSNorm(case.channels, EPSILON, use_bias=False)
    return mapped(module, case, len(case.shape) - 1)

  def batch_norm(case: Case) -> Layer | None:
    if case.layout == "last" and len(case.shape) > 2:
      return None
    initial, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
      case.channels,
      "batch",
      EPSILON,
      momentum=MOMENTUM,
      inference=case.norm == "batch-eval",
      mode="batch",  # The other mode trains with running statistics.
    )
    state = state.set(initial.batch_state_index, running_statistics(case))

    def apply(
      x: jax.Array, params: Params, stats: Statistics
    ) -> tuple[jax.Array, Statistics]:
      return jax.vmap(
        with_parameters(initial, params),
        axis_name="batch",
        in_axes=(0, None),
        out_axes=(0, None),
      )(x, stats)

    return Layer(apply, state)

  def group_norm(case: Case) -> Layer | None:
    if case.layout == "last":
      return None
    module = eqx.nn.GroupNorm(case.groups, case.channels, EPSILON)
    return mapped(module, case, 1)

  return {
    "layer": layer_norm,
    "rms": rms_norm,
    "batch": batch_norm,
    "batch-eval": batch_norm,
    "group": group_norm,
  }


def load_standardize() -> Layers:
  """Returns layers of `jax.nn.standardize` with scale and bias."""

  def layer(case: Case, axes: tuple[int, ...]) -> Layer:
    shape = [1] * len(case.shape)
    shape[case.channel_axis] = case.channels

    def apply(
      x: jax.Array, params: Params, stats: Statistics
    ) -> tuple[jax.Array, Statistics]:
      scale, bias = (param.reshape(shape) for param in params)
      known = {
        name: value.reshape(shape)
        for name, value in zip(("mean", "variance"), stats, strict=False)
      }
      y = jax.nn.standardize(x, axes, epsilon=EPSILON, **known)
      return y * scale.astype(y.dtype) + bias.astype(y.dtype), stats

    evaluated = case.norm == "batch-eval"
    return Layer(apply, running_statistics(case) if evaluated else ())

  def layer_norm(case: Case) -> Layer:
    return layer(case, (case.channel_axis,))

  def spatial(case: Case) -> tuple[int, ...]:
    channel = case.channel_axis % len(case.shape)
    return tuple(i for i in range(1, len(case.shape)) if i != channel)

  return {
    "layer": layer_norm,
    "batch-eval": lambda case: layer(case, (0, *spatial(case))),
    "instance": lambda case: layer(case, spatial(case)),
  }


# By the name in the tables: the package's name on PyPI, and what loads it.
LIBRARIES: dict[str, tuple[str, Callable[[], Layers]]] = {
  "normjax": ("normjax", load_normjax),
  "flax.linen": ("flax", norm_flax.load_linen),
  "flax.nnx": ("flax", norm_flax.load_nnx),
  "haiku": ("dm-haiku", load_haiku),
  "equinox": ("equinox", load_equinox),
  "jax.nn": ("jax", load_standardize),
}
