"""What other libraries call the arguments, for messages about unknown ones."""

import difflib
from collections.abc import Collection, Iterable

# Each word of another library, and what it may be called here. A message names
# those of them that the function has.
_AXES = ("axis", "axes", "channel_axis", "reduction_axes", "feature_axes")
_MODE = ("use_running_average",)
_HERE: dict[str, tuple[str, ...]] = {
  "num_channels": ("num_features",),
  "normalized_shape": ("num_features",),
  "features": ("num_features",),
  "size": ("num_features",),
  "shape": ("num_features",),
  "eps": ("epsilon",),
  "variance_epsilon": ("epsilon",),
  "weight": ("scale",),
  "gamma": ("scale",),
  "gain": ("scale",),
  "offset": ("bias",),
  "beta": ("bias",),
  "shift": ("bias",),
  "scale": ("use_scale",),
  "bias": ("use_bias",),
  "use_scale": ("scale",),
  "use_bias": ("bias",),
  "use_weight": ("use_scale", "scale"),
  "create_scale": ("use_scale", "scale"),
  "create_offset": ("use_bias", "bias"),
  "center": ("use_bias", "bias"),
  "affine": ("use_scale", "use_bias", "scale", "bias"),
  "elementwise_affine": ("use_scale", "use_bias", "scale", "bias"),
  "gamma_initializer": ("scale_init",),
  "beta_initializer": ("bias_init",),
  "offset_init": ("bias_init",),
  "axis": _AXES,
  "axes": _AXES,
  "dim": _AXES,
  "reduction_axes": ("axis", "axes"),
  "channel_axis": ("axis", "feature_axes"),
  "channel_index": ("axis", "channel_axis", "feature_axes"),
  "data_format": ("axis", "channel_axis", "feature_axes"),
  "feature_axes": ("axis", "channel_axis"),
  "param_axis": ("axis", "channel_axis", "feature_axes"),
  "groups": ("num_groups",),
  "n_groups": ("num_groups",),
  "decay_rate": ("momentum",),
  "decay": ("momentum",),
  "is_training": _MODE,
  "training": _MODE,
  "train": _MODE,
  "inference": _MODE,
  "mean": ("stats",),
  "var": ("stats",),
  "running_mean": ("stats",),
  "running_var": ("stats",),
  "moving_mean": ("stats",),
  "moving_variance": ("stats",),
  "where": ("mask",),
  "axis_names": ("axis_name",),
  "cross_replica_axis": ("axis_name",),
  "correction": ("ddof", "running_var_ddof"),
  "unbiased": ("ddof", "running_var_ddof"),
}

# What an argument here means, where another library means something else.
_MEANING = {
  "axis": "the axis of the features, which is not averaged over",
  "axes": "what is averaged over",
  "channel_axis": "the axis of the channels",
  "feature_axes": "the axes that have a gain and a bias each",
  "reduction_axes": "what is averaged over",
  "stats": "the running statistics, as training returns them",
  "use_running_average": "False in training, True in evaluation",
}

# One word there for two arguments here.
_BOTH = {"affine", "elementwise_affine"}

_SIZE = "Sizes are taken from x."
_WITHOUT = {
  "num_features": _SIZE,
  "num_channels": _SIZE,
  "normalized_shape": _SIZE,
  "features": _SIZE,
  "size": _SIZE,
  "shape": _SIZE,
  "track_running_stats": (
    "Batch norm always keeps running statistics, the other norms never do."
  ),
  "dtype": "The result has the dtype of x.",
  **dict.fromkeys(
    ("bias", "beta", "offset", "shift", "center", "use_bias", "create_offset"),
    "It has no bias.",
  ),
}
# Fields of every Flax module.
_OF_FLAX = {"parent", "name"}


def check_keywords(
  function: str, given: Iterable[str], accepted: Collection[str]
) -> None:
  """Raises TypeError if there are keywords that the function does not accept.

  Args:
    function: Its name, for the message.
    given: The keywords of the call.
    accepted: Names of all arguments.

  >>> check_keywords("layer_norm", ["eps"], ["x", "scale", "bias", "epsilon"])
  Traceback (most recent call last):
  TypeError: layer_norm has no argument 'eps'; here it is called 'epsilon'.
  """
  unknown = [word for word in given if word not in accepted]
  if unknown:
    raise TypeError(
      " ".join(_explanation(function, word, accepted) for word in unknown)
    )


def _explanation(function: str, word: str, accepted: Collection[str]) -> str:
  missing = f"{function} has no argument {word!r}"
  here = [name for name in _HERE.get(word, ()) if name in accepted]
  if here:
    names = (" and " if word in _BOTH else " or ").join(
      f"{name!r} ({_MEANING[name]})" if name in _MEANING else repr(name)
      for name in here
    )
    return f"{missing}; here it is called {names}."
  if word in _WITHOUT:
    return f"{missing}. {_WITHOUT[word]}"
  close = difflib.get_close_matches(word, accepted, n=1)
  hint = f" Did you mean {close[0]!r}?" if close else ""
  listed = ", ".join(name for name in accepted if name not in _OF_FLAX)
  return f"{missing}; its arguments are {listed}.{hint}"
