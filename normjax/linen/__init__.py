"""Normalization as Flax Linen modules, drop-in for those of `flax.linen`."""

from normjax.linen.batch import BatchNorm
from normjax.linen.diagnose import Diagnosis, NormDiagnosis, diagnose
from normjax.linen.fold import FoldedModel, FoldedNorm, fold
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

__all__ = [
  "BatchNorm",
  "Diagnosis",
  "FoldedModel",
  "FoldedNorm",
  "GroupNorm",
  "Identity",
  "InstanceNorm",
  "LayerNorm",
  "NormDiagnosis",
  "RMSNorm",
  "diagnose",
  "fold",
  "frozen",
  "frozen_mask",
  "make_norm",
  "norm_names",
  "reestimate",
  "register_norm",
]
