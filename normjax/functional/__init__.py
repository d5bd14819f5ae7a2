"""Normalization as pure functions of arrays: all mathematics lives here."""

from normjax.functional.batch import batch_norm
from normjax.functional.complex_batch import complex_batch_norm
from normjax.functional.group import group_norm, instance_norm
from normjax.functional.layer import layer_norm, rms_norm
from normjax.functional.moments import Moments, merge_moments, moments
from normjax.functional.running import (
  BatchStats,
  DebiasedStats,
  WhiteningStats,
  update_stats,
)
from normjax.functional.standardize import standardize
from normjax.functional.whitening import decorrelated_batch_norm

__all__ = [
  "BatchStats",
  "DebiasedStats",
  "Moments",
  "WhiteningStats",
  "batch_norm",
  "complex_batch_norm",
  "decorrelated_batch_norm",
  "group_norm",
  "instance_norm",
  "layer_norm",
  "merge_moments",
  "moments",
  "rms_norm",
  "standardize",
  "update_stats",
]
