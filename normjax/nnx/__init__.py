"""Normalization as Flax NNX modules, drop-in for those of `flax.nnx`."""

from normjax.lifecycle.diagnosis import Diagnosis, NormDiagnosis
from normjax.lifecycle.folding import FoldedNorm
from normjax.lifecycle.torch_options import options_from_torch
from normjax.nnx.batch import BatchNorm
from normjax.nnx.diagnose import diagnose
from normjax.nnx.domain import DomainBatchNorm
from normjax.nnx.fold import FoldedBatchNorm, FoldedModel, fold
from normjax.nnx.frozen import frozen, frozen_mask
from normjax.nnx.ghost import GhostBatchNorm
from normjax.nnx.group import GroupNorm, InstanceNorm
from normjax.nnx.layer import LayerNorm, RMSNorm
from normjax.nnx.reestimate import reestimate
from normjax.nnx.registry import (
  Identity,
  make_norm,
  norm_names,
  register_norm,
)
from normjax.nnx.renorm import BatchRenorm
from normjax.nnx.step import StepBatchNorm
from normjax.nnx.torch_variables import state_from_torch, state_to_torch
from normjax.nnx.whitening import (
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
  "FoldedBatchNorm",
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
  "state_from_torch",
  "state_to_torch",
]
