"""States of NNX models from state dicts of PyTorch, and back.

Convolutions, linear layers and embeddings are here with the norms, because a
model can only be moved as a whole. PyTorch itself is not needed.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from normjax.lifecycle.torch_arrays import arrays_from_torch, arrays_to_torch
from normjax.lifecycle.torch_layers import Layers
from normjax.lifecycle.torch_plan import Path, Plan, make_plan
from normjax.nnx.batch import BatchNorm
from normjax.nnx.calls import modules
from normjax.nnx.group import GroupNorm, InstanceNorm
from normjax.nnx.layer import LayerNorm, RMSNorm


def state_from_torch(
  state_dict: Mapping[str, ArrayLike] | str | os.PathLike[str],
  model: nnx.Module,
  *,
  names: Mapping[str, str] | None = None,
  feature_maps: Mapping[str, Sequence[int]] | None = None,
  untracked: Collection[str] = (),
) -> Any:
  """Returns the state of an NNX model with the numbers of a PyTorch model.

  A layer is converted by what the NNX model has at its place:

  | NNX | PyTorch |
  |---|---|
  | `Linear`, `Conv`, `ConvTranspose` | `Linear`, `Conv*d`, `ConvTranspose*d` |
  | `Embed` | `Embedding` |
  | norms of `normjax.nnx` and `flax.nnx` | norms of `torch.nn` |

  A parameter or variable of any other module keeps its name and shape. Layers
  of the same path correspond: `model.layer1[0].bn1` is `layer1.0.bn1` in
  PyTorch. `names` pairs the others.

  Args:
    state_dict: Arrays by name: NumPy's, or PyTorch's on the CPU, as
      `state_dict()` returns them. Or the path of a `.safetensors` file, to read
      which the package safetensors must be installed.
    model: The NNX model. It stays as it is.
    names: From prefixes in PyTorch to paths here, `{"features.0": "conv1"}`.
      They hold for everything below, as far as it has no entry of its own.
    feature_maps, untracked: As in `normjax.linen.variables_from_torch`.

  Returns:
    A state for `nnx.update(model, state)`, with parameters and statistics.

  Raises:
    ValueError: keys are missing or left over, or shapes are wrong; all are
      named. Or `names`, `feature_maps` or `untracked` name what does not exist.
    ModuleNotFoundError: safetensors is needed and not installed.

  Example:
    >>> import jax.numpy as jnp, numpy as np
    >>> from flax import nnx
    >>> from normjax.nnx import BatchNorm, state_from_torch
    >>> class Net(nnx.Module):
    ...   def __init__(self, rngs):
    ...     self.fc = nnx.Linear(3, 2, use_bias=False, rngs=rngs)
    ...     self.bn = BatchNorm(2, rngs=rngs)
    ...   def __call__(self, x):
    ...     return self.bn(self.fc(x))
    >>> state_dict = {
    ...   "fc.weight": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    ...   "bn.weight": np.ones(2), "bn.bias": np.zeros(2),
    ...   "bn.running_mean": np.array([6.0, 0.0]),
    ...   "bn.running_var": np.array([1.0, 25.0]),
    ...   "bn.num_batches_tracked": np.array(7)}
    >>> model = Net(nnx.Rngs(0))
    >>> nnx.update(model, state_from_torch(state_dict, model))
    >>> model.eval()
    >>> print(model(jnp.ones((1, 3))))
    [[0. 3.]]
  """
  variables, plan = _plan(model, names, feature_maps, untracked)
  arrays = arrays_from_torch(state_dict, plan)
  return nnx.from_flat_state(
    (keys, jax.tree.map(lambda _, path=path: arrays[path], variable))
    for path, (keys, variable) in variables.items()
  )


def state_to_torch(
  model: nnx.Module,
  *,
  names: Mapping[str, str] | None = None,
  feature_maps: Mapping[str, Sequence[int]] | None = None,
  untracked: Collection[str] = (),
  num_batches_tracked: int = 0,
) -> dict[str, np.ndarray]:
  """Returns the state dict of PyTorch for an NNX model.

  Args:
    model, names, feature_maps, untracked: As in `state_from_torch`, of which
      this is the inverse.
    num_batches_tracked: For every batch norm. Only PyTorch's `momentum=None`
      uses it.

  Returns:
    NumPy arrays by name, copies with the dtypes of the variables. For PyTorch
    call `torch.from_numpy` on each, which accepts no bfloat16: convert such
    variables to float32. For a file call `safetensors.numpy.save_file`.

  Raises:
    ValueError: as in `state_from_torch`.

  Example:
    >>> from flax import nnx
    >>> from normjax.nnx import BatchNorm, state_to_torch
    >>> norm = BatchNorm(3, rngs=nnx.Rngs(0))
    >>> state_dict = state_to_torch(norm, names={"bn1": ""})
    >>> for key in sorted(state_dict):
    ...   print(key, state_dict[key])
    bn1.bias [0. 0. 0.]
    bn1.num_batches_tracked 0
    bn1.running_mean [0. 0. 0.]
    bn1.running_var [1. 1. 1.]
    bn1.weight [1. 1. 1.]
  """
  variables, plan = _plan(model, names, feature_maps, untracked)
  leaves = {
    path: variable.get_value() for path, (_, variable) in variables.items()
  }
  return arrays_to_torch(leaves, plan, num_batches_tracked)


_LAYERS = Layers(
  (nnx.Linear,),
  (nnx.Conv,),
  (nnx.ConvTranspose,),
  (nnx.Embed,),
  (BatchNorm, nnx.BatchNorm),
  (
    *(LayerNorm, RMSNorm, GroupNorm, InstanceNorm),
    *(nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm, nnx.InstanceNorm),
  ),
)


def _plan(
  model: nnx.Module,
  names: Mapping[str, str] | None,
  feature_maps: Mapping[str, Sequence[int]] | None,
  untracked: Collection[str],
) -> tuple[dict[Path, tuple[tuple[Any, ...], Any]], Plan]:
  """Returns the variables by their paths, and what corresponds to them."""
  state = nnx.state(model, nnx.Not(nnx.RngState))
  variables = {}
  for keys, variable in nnx.to_flat_state(state):
    statistic = issubclass(variable.type, nnx.BatchStat)
    collection = "batch_stats" if statistic else "params"
    variables[(collection, *map(str, keys))] = keys, variable
  leaves = {
    path: jax.eval_shape(lambda x: x, variable.get_value())
    for path, (_, variable) in variables.items()
  }
  plan = make_plan(
    _LAYERS, dict(modules(model)), leaves, names, feature_maps, untracked
  )
  return variables, plan
