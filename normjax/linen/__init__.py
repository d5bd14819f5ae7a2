"""Normalization as Flax Linen modules, drop-in for those of `flax.linen`."""

from normjax.linen.batch import BatchNorm
from normjax.linen.frozen import frozen, frozen_mask
from normjax.linen.group import GroupNorm, InstanceNorm
from normjax.linen.layer import LayerNorm, RMSNorm
from normjax.linen.reestimate import reestimate
from normjax.linen.registry import (
  Identity,
  make_norm,
  norm_names,
  register_norm,
)
from normjax.linen.torch_options import options_from_torch
from normjax.linen.torch_variables import (
  variables_from_torch,
  variables_to_torch,
)

__all__ = [
  "BatchNorm",
  "GroupNorm",
  "Identity",
  "InstanceNorm",
  "LayerNorm",
  "RMSNorm",
  "frozen",
  "frozen_mask",
  "make_norm",
  "norm_names",
  "options_from_torch",
  "reestimate",
  "register_norm",
  "variables_from_torch",
  "variables_to_torch",
]
