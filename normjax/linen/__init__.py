"""Normalization as Flax Linen modules, drop-in for those of `flax.linen`."""

from normjax.linen.batch import BatchNorm
from normjax.linen.domain import DomainBatchNorm
from normjax.linen.frozen import frozen, frozen_mask
from normjax.linen.ghost import GhostBatchNorm
from normjax.linen.group import GroupNorm, InstanceNorm
from normjax.linen.layer import LayerNorm, RMSNorm
from normjax.linen.reestimate import reestimate
from normjax.linen.registry import (
  Identity,
  make_norm,
  norm_names,
  register_norm,
)
from normjax.linen.renorm import BatchRenorm
from normjax.linen.step import StepBatchNorm

__all__ = [
  "BatchNorm",
  "BatchRenorm",
  "DomainBatchNorm",
  "GhostBatchNorm",
  "GroupNorm",
  "Identity",
  "InstanceNorm",
  "LayerNorm",
  "RMSNorm",
  "StepBatchNorm",
  "frozen",
  "frozen_mask",
  "make_norm",
  "norm_names",
  "reestimate",
  "register_norm",
]
