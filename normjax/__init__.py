"""Exact normalization layers for JAX.

The pure functions are here; `normjax.linen` holds the Flax modules around
them, imported separately so that `import normjax` needs JAX alone.
"""

from normjax.config import Config, get_config, show_config
from normjax.functional import (
  BatchStats,
  DebiasedStats,
  Moments,
  WhiteningStats,
  batch_norm,
  batch_renorm,
  complex_batch_norm,
  decorrelated_batch_norm,
  domain_batch_norm,
  fold_batch_norm,
  ghost_batch_norm,
  group_norm,
  instance_norm,
  layer_norm,
  merge_moments,
  moments,
  renorm_d_max,
  renorm_r_max,
  rms_norm,
  standardize,
  step_batch_norm,
  update_stats,
)
from normjax.weight_decay import decay_mask

__all__ = [
  "BatchStats",
  "Config",
  "DebiasedStats",
  "Moments",
  "WhiteningStats",
  "batch_norm",
  "batch_renorm",
  "complex_batch_norm",
  "decay_mask",
  "decorrelated_batch_norm",
  "domain_batch_norm",
  "fold_batch_norm",
  "get_config",
  "ghost_batch_norm",
  "group_norm",
  "instance_norm",
  "layer_norm",
  "merge_moments",
  "moments",
  "renorm_d_max",
  "renorm_r_max",
  "rms_norm",
  "show_config",
  "standardize",
  "step_batch_norm",
  "update_stats",
]

__version__ = "0.1.0"
