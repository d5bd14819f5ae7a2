"""Normalization as Flax Linen modules, drop-in for those of `flax.linen`."""

from normjax.lifecycle.diagnosis import Diagnosis, NormDiagnosis
from normjax.lifecycle.folding import FoldedNorm
from normjax.lifecycle.torch_options import options_from_torch
from normjax.linen.batch import BatchNorm
from normjax.linen.diagnose import diagnose
from normjax.linen.domain import DomainBatchNorm
from normjax.linen.fold import FoldedModel, fold
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
from normjax.linen.torch_variables import (
  variables_from_torch,
  variables_to_torch,
)
from normjax.linen.whitening import (
  ComplexBatchNorm,
  DecorrelatedBatchNorm,
  IterNorm,
)

__all__ = [
  "BatchNorm",
  "BatchRenorm",
  "ComplexBatchNorm",
  "DecorrelatedBatchNorm",
  "Diagnosis",
  "DomainBatchNorm",
  "FoldedModel",
  "FoldedNorm",
  "GhostBatchNorm",
  "GroupNorm",
  "Identity",
  "InstanceNorm",
  "IterNorm",
  "LayerNorm",
  "NormDiagnosis",
  "RMSNorm",
  "StepBatchNorm",
  "diagnose",
  "fold",
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
