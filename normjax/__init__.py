"""Exact normalization layers for JAX.

The pure functions are here; `normjax.linen` holds the Flax modules around
them, imported separately so that `import normjax` needs JAX alone.
"""

from normjax.config import Config as Config
from normjax.config import get_config as get_config
from normjax.config import show_config as show_config
from normjax.functional import BatchStats as BatchStats
from normjax.functional import Moments as Moments
from normjax.functional import batch_norm as batch_norm
from normjax.functional import group_norm as group_norm
from normjax.functional import instance_norm as instance_norm
from normjax.functional import layer_norm as layer_norm
from normjax.functional import merge_moments as merge_moments
from normjax.functional import moments as moments
from normjax.functional import rms_norm as rms_norm
from normjax.functional import standardize as standardize

__version__ = "0.1.0"
