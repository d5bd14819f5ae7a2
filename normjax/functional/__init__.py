"""Normalization as pure functions of arrays: all mathematics lives here."""

from normjax.functional.batch import batch_norm
from normjax.functional.folding import fold_batch_norm
from normjax.functional.group import group_norm, instance_norm
from normjax.functional.layer import layer_norm, rms_norm
from normjax.functional.moments import Moments, merge_moments, moments
from normjax.functional.running import BatchStats, DebiasedStats, update_stats
from normjax.functional.standardize import standardize

__all__ = [
  "BatchStats",
  "DebiasedStats",
  "Moments",
  "batch_norm",
  "fold_batch_norm",
  "group_norm",
  "instance_norm",
  "layer_norm",
  "merge_moments",
  "moments",
  "rms_norm",
  "standardize",
  "update_stats",
]
