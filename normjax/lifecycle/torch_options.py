"""Options of the norms of `torch.nn` in the words of this library.

PyTorch itself is not needed.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def options_from_torch(layer: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
  """Returns the options of our norm for those of a norm of `torch.nn`.

  They go into the constructor of the module of that name in `normjax.linen`,
  which is `BatchNorm` for all batch norms and `InstanceNorm` for all instance
  norms. Channels are last there; where they are first, add `axis=1`,
  `channel_axis=1` or `feature_axes=1`.

  Args:
    layer: The name in `torch.nn`, such as "BatchNorm2d".
    *args, **kwargs: What its constructor is called with in PyTorch. The
      defaults are PyTorch's. Of keywords, `device`, `dtype` and
      `process_group` change nothing here.

  Returns:
    Among others `epsilon`, and for batch norms `momentum`, the share of the old
    statistic, and `running_var_ddof=1`, because PyTorch stores the unbiased
    variance. With `track_running_stats=False`, `use_running_average=False`
    takes the place of these two.

  Raises:
    TypeError: `layer` is no norm of PyTorch, or its constructor there does not
      accept the arguments.
    ValueError: there is no such norm here: batch norm with `momentum=None`, or
      instance norm with running statistics.

  Example:
    >>> from normjax.linen import LayerNorm, options_from_torch
    >>> options_from_torch("BatchNorm2d", 64, momentum=0.25)
    {'epsilon': 1e-05, 'use_scale': True, 'use_bias': True, 'momentum': 0.75,
     'running_var_ddof': 1}
    >>> norm = LayerNorm(**options_from_torch("LayerNorm", (8, 64), eps=1e-6))
    >>> norm.epsilon, norm.reduction_axes, norm.feature_axes
    (1e-06, (-2, -1), (-2, -1))
  """
  if layer not in OPTIONS:
    raise TypeError(
      f"torch.nn has no norm {layer!r} that is known here. Give one of"
      f" {', '.join(OPTIONS)}."
    )
  function = OPTIONS[layer]
  ignored = ["device", "dtype"]
  ignored += ["process_group"] if layer == "SyncBatchNorm" else []
  kwargs = {name: kwargs[name] for name in kwargs if name not in ignored}
  try:
    inspect.signature(function).bind(*args, **kwargs)
  except TypeError as error:
    raise TypeError(f"torch.nn.{layer}: {error}.") from None
  return function(*args, **kwargs)


def _batch_norm_options(
  num_features: int,
  eps: float = 1e-5,
  momentum: float | None = 0.1,
  affine: bool = True,
  track_running_stats: bool = True,
  *,
  bias: bool = True,
) -> dict[str, Any]:
  del num_features
  options = _affine(eps, affine, bias)
  if not track_running_stats:
    return {**options, "use_running_average": False}
  if momentum is None:
    raise ValueError(
      "With momentum=None PyTorch averages all batches alike. Give the number"
      " to train on with, such as momentum=0.1; for evaluation any will do."
      " BatchNorm(momentum=1.0, debias=True) is that average from its first"
      " batch on."
    )
  return {**options, "momentum": 1 - momentum, "running_var_ddof": 1}


def _instance_norm_options(
  num_features: int,
  eps: float = 1e-5,
  momentum: float = 0.1,
  affine: bool = False,
  track_running_stats: bool = False,
  *,
  bias: bool = True,
) -> dict[str, Any]:
  del num_features, momentum
  if track_running_stats:
    raise ValueError(
      "InstanceNorm has no running statistics here. For evaluation, use"
      " normjax.linen.BatchNorm with use_running_average=True in its place:"
      " that is what PyTorch computes then."
    )
  return _affine(eps, affine, bias)


def _group_norm_options(
  num_groups: int,
  num_channels: int,
  eps: float = 1e-5,
  affine: bool = True,
  *,
  bias: bool = True,
) -> dict[str, Any]:
  del num_channels
  return {"num_groups": num_groups, **_affine(eps, affine, bias)}


def _layer_norm_options(
  normalized_shape: int | Sequence[int],
  eps: float = 1e-5,
  elementwise_affine: bool = True,
  bias: bool = True,
) -> dict[str, Any]:
  return {
    **_affine(eps, elementwise_affine, bias),
    **_axes(normalized_shape),
  }


def _rms_norm_options(
  normalized_shape: int | Sequence[int],
  eps: float | None = None,
  elementwise_affine: bool = True,
) -> dict[str, Any]:
  return {
    "epsilon": float(np.finfo(np.float32).eps) if eps is None else eps,
    "use_scale": elementwise_affine,
    **_axes(normalized_shape),
  }


def _affine(epsilon: float, affine: bool, bias: bool) -> dict[str, Any]:
  return {
    "epsilon": epsilon,
    "use_scale": affine,
    "use_bias": affine and bias,
  }


def _axes(normalized_shape: int | Sequence[int]) -> dict[str, Any]:
  axes = tuple(range(-np.size(normalized_shape), 0))
  return {"reduction_axes": axes, "feature_axes": axes}


OPTIONS: dict[str, Callable[..., dict[str, Any]]] = {
  **dict.fromkeys(
    ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"),
    _batch_norm_options,
  ),
  "LayerNorm": _layer_norm_options,
  "GroupNorm": _group_norm_options,
  **dict.fromkeys(
    ("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
    _instance_norm_options,
  ),
  "RMSNorm": _rms_norm_options,
}
