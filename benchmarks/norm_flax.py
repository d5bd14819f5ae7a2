"""Flax in `benchmarks.norms`: Linen and NNX.

Each loader raises ImportError if Flax is not installed.
"""

from collections.abc import Callable
from typing import Any

import jax

from benchmarks.norm_cases import EPSILON, MOMENTUM, Case
from benchmarks.norm_layer import (
  Layer,
  Layers,
  Params,
  Statistics,
  running_statistics,
  stateless,
)


def load_linen() -> Layers:
  from flax import linen as nn

  def options(case: Case) -> dict[str, Any]:
    # Without `dtype`, the result of bfloat16 would be float32.
    return {"epsilon": EPSILON, "dtype": case.dtype}

  def layer(module: Any) -> Layer:
    def function(x: jax.Array, *params: jax.Array) -> jax.Array:
      named = dict(zip(("scale", "bias"), params, strict=False))
      return module.apply({"params": named}, x)

    return stateless(function)

  def layer_norm(case: Case) -> Layer:
    axis = case.channel_axis
    return layer(nn.LayerNorm(**options(case), **_axes(axis)))

  def rms_norm(case: Case) -> Layer:
    axis = case.channel_axis
    return layer(nn.RMSNorm(**options(case), **_axes(axis)))

  def batch_norm(case: Case) -> Layer:
    module: Any = nn.BatchNorm(
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

    return Layer(
      apply, dict(zip(("mean", "var"), running_statistics(case), strict=True))
    )

  def group_norm(case: Case) -> Layer | None:
    if case.layout == "first":
      return None
    return layer(nn.GroupNorm(num_groups=case.groups, **options(case)))

  def instance_norm(case: Case) -> Layer:
    return layer(
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


def _axes(axis: int) -> dict[str, Any]:
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

  # Modules are made while tracing, because they hold arrays of the trace, which
  # another trace must not use. This takes no time in the compiled program.

  def layer(make: Callable[[], Any]) -> Layer:
    return stateless(lambda x, *params: with_parameters(make(), params)(x))

  def layer_norm(case: Case) -> Layer:
    return layer(
      lambda: nnx.LayerNorm(
        case.channels, **_axes(case.channel_axis), **options(case)
      )
    )

  def rms_norm(case: Case) -> Layer:
    return layer(
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

    return Layer(apply, running_statistics(case))

  def group_norm(case: Case) -> Layer | None:
    if case.layout == "first":
      return None
    return layer(
      lambda: nnx.GroupNorm(case.channels, case.groups, **options(case))
    )

  def instance_norm(case: Case) -> Layer:
    return layer(
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
