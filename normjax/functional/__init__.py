"""Normalization as pure functions of arrays: all mathematics lives here."""

from normjax.functional.batch import batch_norm
from normjax.functional.complex_batch import complex_batch_norm
from normjax.functional.domain import domain_batch_norm
from normjax.functional.folding import fold_batch_norm
from normjax.functional.ghost import ghost_batch_norm
from normjax.functional.group import group_norm, instance_norm
from normjax.functional.layer import layer_norm, rms_norm
from normjax.functional.moments import Moments, merge_moments, moments
from normjax.functional.renorm import (
  batch_renorm,
  renorm_d_max,
  renorm_r_max,
)
from normjax.functional.running import (
  BatchStats,
  DebiasedStats,
  WhiteningStats,
  update_stats,
)
from normjax.functional.standardize import standardize
from normjax.functional.step import step_batch_norm
from normjax.functional.whitening import decorrelated_batch_norm

__all__ = [
  "BatchStats",
  "DebiasedStats",
  "Moments",
  "WhiteningStats",
  "batch_norm",
  "batch_renorm",
  "complex_batch_norm",
  "decorrelated_batch_norm",
  "domain_batch_norm",
  "fold_batch_norm",
  "ghost_batch_norm",
  "group_norm",
  "instance_norm",
  "layer_norm",
  "merge_moments",
  "moments",
  "renorm_d_max",
  "renorm_r_max",
  "rms_norm",
  "standardize",
  "step_batch_norm",
  "update_stats",
]
