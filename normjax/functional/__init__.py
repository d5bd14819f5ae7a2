"""Normalization as pure functions of arrays: all mathematics lives here."""

from normjax.functional.batch import BatchStats, batch_norm
from normjax.functional.group import group_norm, instance_norm
from normjax.functional.layer import layer_norm, rms_norm
from normjax.functional.moments import Moments, merge_moments, moments
from normjax.functional.standardize import standardize

__all__ = [
  "BatchStats",
  "Moments",
  "batch_norm",
  "group_norm",
  "instance_norm",
  "layer_norm",
  "merge_moments",
  "moments",
  "rms_norm",
  "standardize",
]
