"""What the modules of all front ends have in common, said once.

A description is a dataclass whose fields are the options of a norm. It says
which parameters and running statistics there are, and calls the pure function.
`normjax.linen` and `normjax.nnx` make modules of it.
"""

from normjax.descriptions.batch import BatchNorm
from normjax.descriptions.domain import DomainBatchNorm
from normjax.descriptions.ghost import GhostBatchNorm
from normjax.descriptions.group import GroupNorm, InstanceNorm
from normjax.descriptions.layer import LayerNorm, RMSNorm
from normjax.descriptions.norm import (
  Norm,
  Parameter,
  RunningNorm,
  Statistic,
  description,
)
from normjax.descriptions.registry import register_norm
from normjax.descriptions.renorm import BatchRenorm
from normjax.descriptions.step import StepBatchNorm
from normjax.descriptions.whitening import (
  ComplexBatchNorm,
  DecorrelatedBatchNorm,
  IterNorm,
)

__all__ = [
  "BatchNorm",
  "BatchRenorm",
  "ComplexBatchNorm",
  "DecorrelatedBatchNorm",
  "DomainBatchNorm",
  "GhostBatchNorm",
  "GroupNorm",
  "InstanceNorm",
  "IterNorm",
  "LayerNorm",
  "Norm",
  "Parameter",
  "RMSNorm",
  "RunningNorm",
  "Statistic",
  "StepBatchNorm",
  "description",
  "register_norm",
]
