"""Normalization as pure functions of arrays: all mathematics lives here."""

from normjax.functional.batch import BatchStats as BatchStats
from normjax.functional.batch import batch_norm as batch_norm
from normjax.functional.group import group_norm as group_norm
from normjax.functional.group import instance_norm as instance_norm
from normjax.functional.layer import layer_norm as layer_norm
from normjax.functional.layer import rms_norm as rms_norm
from normjax.functional.moments import Moments as Moments
from normjax.functional.moments import merge_moments as merge_moments
from normjax.functional.moments import moments as moments
from normjax.functional.standardize import standardize as standardize
