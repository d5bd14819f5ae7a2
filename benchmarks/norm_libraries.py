"""The JAX libraries of `benchmarks.norms`, behind one interface.

Each `load_...` imports its library, raising ImportError where it is missing,
and returns what it offers. Every library gets the same epsilon, momentum,
parameters and running statistics, and otherwise takes its own defaults.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import normjax
from benchmarks.norm_cases import EPSILON, MOMENTUM, Case, make_inputs

Params = Sequence[jax.Array]
Statistics = Any  # Running statistics in the library's own structure.


class Layer(NamedTuple):
  """A norm as a pure function.

  Attributes:
    apply: Takes x, parameters (scale and, but for RMS norm, bias, float32
      `[channels]`) and running statistics; returns y and new statistics.
    statistics: Running statistics to start from; empty but for batch norm.
  """

  apply: Callable[[jax.Array, Params, Statistics], tuple[jax.Array, Statistics]]
  statistics: Statistics = ()


# By norm. Returns None for a layout that the library does not offer.
Layers = Mapping[str, Callable[[Case], Layer | None]]


def _stateless(function: Callable[..., jax.Array]) -> Layer:
  """Returns the layer of `function(x, *params)`."""
  return Layer(lambda x, params, stats: (function(x, *params), stats))


def _running(case: Case) -> tuple[jax.Array, jax.Array]:
  inputs = make_inputs(case)
  return jnp.asarray(inputs.mean), jnp.asarray(inputs.var)


def load_normjax() -> Layers:
  def layer_norm(case: Case) -> Layer:
    axis = case.channel_axis
    return _stateless(
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
    return _stateless(
      lambda x, scale: normjax.rms_norm(
        x, scale, reduction_axes=axis, feature_axes=axis, epsilon=EPSILON
      )
    )

  def batch_norm(case: Case) -> Layer:
    def apply(
      x: jax.Array, params: Params, stats: normjax.BatchStats
    ) -> tuple[jax.Array, normjax.BatchStats]:
      return normjax.batch_norm(
        x,
        *params,
        stats,
        use_running_average=case.norm == "batch-eval",
        axis=case.channel_axis,
        momentum=MOMENTUM,
        epsilon=EPSILON,
      )

    return Layer(apply, normjax.BatchStats(*_running(case)))

  def group_norm(case: Case) -> Layer:
    return _stateless(
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
    return _stateless(
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


def load_linen() -> Layers:
  from flax import linen as nn

  def options(case: Case) -> dict[str, Any]:
    # Without `dtype`, the result of bfloat16 would be float32.
    return {"epsilon": EPSILON, "dtype": case.dtype}

  def stateless(module: nn.Module) -> Layer:
    def function(x: jax.Array, *params: jax.Array) -> jax.Array:
      named = dict(zip(("scale", "bias"), params, strict=False))
      return module.apply({"params": named}, x)

    return _stateless(function)

  def layer_norm(case: Case) -> Layer:
    axis = case.channel_axis
    return stateless(nn.LayerNorm(**options(case), **_axes(axis)))

  def rms_norm(case: Case) -> Layer:
    axis = case.channel_axis
    return stateless(nn.RMSNorm(**options(case), **_axes(axis)))

  def batch_norm(case: Case) -> Layer:
    module = nn.BatchNorm(
      axis=case.channel_axis, momentum=MOMENTUM, **options(case)
    )

    def apply(
      x: jax.Array, params: Params, stats: Statistics
    ) -> tuple[jax.Array, Statistics]:
      scale, bias = params
      variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": stats,
      }
      if case.norm == "batch-eval":
        return module.apply(variables, x, use_running_average=True), stats
      y, updates = module.apply(
        variables, x, use_running_average=False, mutable=["batch_stats"]
      )
      return y, updates["batch_stats"]

    return Layer(apply, dict(zip(("mean", "var"), _running(case), strict=True)))

  def group_norm(case: Case) -> Layer | None:
    if case.layout == "first":
      return None
    return stateless(nn.GroupNorm(num_groups=case.groups, **options(case)))

  def instance_norm(case: Case) -> Layer:
    return stateless(
      nn.InstanceNorm(feature_axes=case.channel_axis, **options(case))
    )

  return {
    "layer": layer_norm,
    "rms": rms_norm,
    "batch": batch_norm,
    "batch-eval": batch_norm,
    "group": group_norm,
    "instance": instance_norm,
  }


def _axes(axis: int) -> dict[str, int]:
  return {"reduction_axes": axis, "feature_axes": axis}


def load_nnx() -> Layers:
  from flax import nnx

  def options(case: Case) -> dict[str, Any]:
    return {
      "epsilon": EPSILON,
      "dtype": case.dtype,
      "rngs": nnx.Rngs(0),
    }

  def with_parameters(module: Any, params: Params) -> Any:
    module.scale = nnx.Param(params[0])
    if len(params) > 1:
      module.bias = nnx.Param(params[1])
    return module

  # Modules are made while tracing, which costs nothing once compiled: they are
  # shells around the arrays that a trace may not share with another.

  def stateless(make: Callable[[], Any]) -> Layer:
    return _stateless(lambda x, *params: with_parameters(make(), params)(x))

  def layer_norm(case: Case) -> Layer:
    return stateless(
      lambda: nnx.LayerNorm(
        case.channels, **_axes(case.channel_axis), **options(case)
      )
    )

  def rms_norm(case: Case) -> Layer:
    return stateless(
      lambda: nnx.RMSNorm(
        case.channels, **_axes(case.channel_axis), **options(case)
      )
    )

  def batch_norm(case: Case) -> Layer:
    def apply(
      x: jax.Array, params: Params, stats: Statistics
    ) -> tuple[jax.Array, Statistics]:
      module = with_parameters(
        nnx.BatchNorm(
          case.channels,
          use_running_average=case.norm == "batch-eval",
          axis=case.channel_axis,
          momentum=MOMENTUM,
          **options(case),
        ),
        params,
      )
      module.mean, module.var = map(nnx.BatchStat, stats)
      y = module(x)
      return y, (module.mean[...], module.var[...])

    return Layer(apply, _running(case))

  def group_norm(case: Case) -> Layer | None:
    if case.layout == "first":
      return None
    return stateless(
      lambda: nnx.GroupNorm(case.channels, case.groups, **options(case))
    )

  def instance_norm(case: Case) -> Layer:
    return stateless(
      lambda: nnx.InstanceNorm(
        case.channels, feature_axes=case.channel_axis, **options(case)
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

  def layer(case: Case, make: Callable[[], hk.Module], **call: Any) -> Layer:
    pure = hk.transform_with_state(lambda x: make()(x, **call))
    # The shapes of parameters depend on the channels alone.
    one = Case(case.norm, (1,) * (len(case.shape) - 1) + case.shape[-1:])
    one = one._replace(dtype=case.dtype, layout=case.layout)
    shapes, stats = pure.init(None, jnp.zeros(one.array_shape, case.dtype))
    ((module, shapes),) = shapes.items()
    if case.norm.startswith("batch"):
      for name, value in zip(("mean", "var"), _running(case), strict=True):
        average = stats[f"{module}/~/{name}_ema"]
        value = value.reshape(average["average"].shape)
        average["hidden"] = average["average"] = value.astype(case.dtype)

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
      is_training=case.norm == "batch",
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

    return _stateless(function)

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
      mode="batch",  # The other one standardizes by running statistics.
    )
    state = state.set(initial.batch_state_index, _running(case))

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
  """JAX's own function, and the affine map written out."""

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
    return Layer(apply, _running(case) if evaluated else ())

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


# The package on the index, and what loads it, by the name in the tables.
LIBRARIES: dict[str, tuple[str, Callable[[], Layers]]] = {
  "normjax": ("normjax", load_normjax),
  "flax.linen": ("flax", load_linen),
  "flax.nnx": ("flax", load_nnx),
  "haiku": ("dm-haiku", load_haiku),
  "equinox": ("equinox", load_equinox),
  "jax.nn": ("jax", load_standardize),
}
