"""Exact normalization layers for JAX.

The pure functions are here; `normjax.linen` holds the Flax modules around
them, imported separately so that `import normjax` needs JAX alone.
"""

from normjax.config import Config, get_config, show_config
from normjax.functional import (
  BatchStats,
  DebiasedStats,
  Moments,
  batch_norm,
  fold_batch_norm,
  group_norm,
  instance_norm,
  layer_norm,
  merge_moments,
  moments,
  rms_norm,
  standardize,
  update_stats,
)
from normjax.weight_decay import decay_mask

__all__ = [
  "BatchStats",
  "Config",
  "DebiasedStats",
  "Moments",
  "batch_norm",
  "decay_mask",
  "fold_batch_norm",
  "get_config",
  "group_norm",
  "instance_norm",
  "layer_norm",
  "merge_moments",
  "moments",
  "rms_norm",
  "show_config",
  "standardize",
  "update_stats",
]

__version__ = "0.1.0"
