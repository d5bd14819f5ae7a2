"""Normalization as Flax Linen modules, drop-in for those of `flax.linen`."""

from normjax.linen.batch import BatchNorm as BatchNorm
from normjax.linen.group import GroupNorm as GroupNorm
from normjax.linen.group import InstanceNorm as InstanceNorm
from normjax.linen.layer import LayerNorm as LayerNorm
from normjax.linen.layer import RMSNorm as RMSNorm
from normjax.linen.registry import Identity as Identity
from normjax.linen.registry import make_norm as make_norm
from normjax.linen.registry import norm_names as norm_names
from normjax.linen.registry import register_norm as register_norm
