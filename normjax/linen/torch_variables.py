"""Variables of Linen models from state dicts of PyTorch, and back.

Convolutions, linear layers and embeddings are here with the norms, because a
model can only be moved as a whole. PyTorch itself is not needed.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from flax.core import meta
from numpy.typing import ArrayLike

from normjax.lifecycle.torch_arrays import arrays_from_torch, arrays_to_torch
from normjax.lifecycle.torch_layers import Layers
from normjax.lifecycle.torch_plan import Path, Plan, make_plan
from normjax.linen.batch import BatchNorm
from normjax.linen.group import GroupNorm, InstanceNorm
from normjax.linen.layer import LayerNorm, RMSNorm


def variables_from_torch(
  state_dict: Mapping[str, ArrayLike] | str | os.PathLike[str],
  model: nn.Module,
  *args: Any,
  names: Mapping[str, str] | None = None,
  feature_maps: Mapping[str, Sequence[int]] | None = None,
  untracked: Collection[str] = (),
  **kwargs: Any,
) -> dict[str, Any]:
  """Returns a Linen model's variables with the numbers of a PyTorch model.

  A layer is converted by what the Linen model has at its place:

  | Linen | PyTorch |
  |---|---|
  | `Dense`, `Conv`, `ConvTranspose` | `Linear`, `Conv*d`, `ConvTranspose*d` |
  | `Embed` | `Embedding` |
  | norms of `normjax.linen` and `flax.linen` | norms of `torch.nn` |

  A parameter or variable of any other module keeps its name and shape.
  Statistics are taken as they are, for they are used as they are. What a state
  dict does not hold (epsilon, momentum, which variance is stored) is for
  `options_from_torch`.

  Layers of the same name correspond. PyTorch's `layer1.0.bn1` is `layer1_0/bn1`
  in Linen, in a model with `self.layer1 = [Block(), ...]` in `setup`. `names`
  pairs the others.

  Args:
    state_dict: Arrays by name: NumPy's, or PyTorch's on the CPU, as
      `state_dict()` returns them. Or the path of a `.safetensors` file, to read
      which the package safetensors must be installed.
    model: The Linen model.
    *args: What the model is called with: arrays, of which only shapes and
      dtypes matter, or `jax.ShapeDtypeStruct`.
    names: From prefixes in PyTorch to paths in Linen, `{"features.0":
      "Conv_0"}`. They hold for everything below, as far as it has no entry of
      its own: `{"module": ""}` takes away a prefix of the whole model.
    feature_maps: For layers that see whole feature maps, the shape of these in
      PyTorch, `{"fc": (512, 7, 7)}`. It puts their features into the order of
      channels last: of a `Linear` or norm after flattening, and of a norm with
      a gain for each element.
    untracked: Prefixes in PyTorch of the batch norms with
      `track_running_stats=False`, which use the batch in evaluation too, as
      those with `use_running_average=False` here. Their statistics are 0 and 1.
    **kwargs: Keyword arguments of the call, such as `train=False`.

  Returns:
    Variables with the names, shapes and dtypes that `model.init` returns.
    `num_batches_tracked` is dropped: only PyTorch's `momentum=None` needs it.

  Raises:
    ValueError: keys are missing or left over, or shapes are wrong; all are
      named. Or `names`, `feature_maps` or `untracked` name what does not exist.
    ModuleNotFoundError: safetensors is needed and not installed.

  Example:
    >>> import jax.numpy as jnp, numpy as np
    >>> from flax import linen as nn
    >>> from normjax.linen import BatchNorm, variables_from_torch
    >>> class Net(nn.Module):
    ...   @nn.compact
    ...   def __call__(self, x):
    ...     x = nn.Dense(2, use_bias=False, name="fc")(x)
    ...     return BatchNorm(use_running_average=True, name="bn")(x)
    >>> state_dict = {
    ...   "fc.weight": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    ...   "bn.weight": np.ones(2), "bn.bias": np.zeros(2),
    ...   "bn.running_mean": np.array([6.0, 0.0]),
    ...   "bn.running_var": np.array([1.0, 25.0]),
    ...   "bn.num_batches_tracked": np.array(7)}
    >>> x = jnp.ones((1, 3))
    >>> variables = variables_from_torch(state_dict, Net(), x)
    >>> print(variables["params"]["fc"]["kernel"])
    [[1. 4.]
     [2. 5.]
     [3. 6.]]
    >>> print(Net().apply(variables, x))
    [[0. 3.]]
  """
  plan = _plan(model, args, kwargs, names, feature_maps, untracked)
  return traverse_util.unflatten_dict(arrays_from_torch(state_dict, plan))


def variables_to_torch(
  variables: Mapping[str, Any],
  model: nn.Module,
  *args: Any,
  names: Mapping[str, str] | None = None,
  feature_maps: Mapping[str, Sequence[int]] | None = None,
  untracked: Collection[str] = (),
  num_batches_tracked: int = 0,
  **kwargs: Any,
) -> dict[str, np.ndarray]:
  """Returns the state dict of PyTorch for a Linen model's variables.

  Args:
    variables: As `model.init` returns them.
    model, *args, names, feature_maps, untracked, **kwargs: As in
      `variables_from_torch`, of which this is the inverse.
    num_batches_tracked: For every batch norm. Only PyTorch's `momentum=None`
      uses it.

  Returns:
    NumPy arrays by name, copies with the dtypes of the variables. For PyTorch
    call `torch.from_numpy` on each, which accepts no bfloat16: convert such
    variables to float32. For a file call `safetensors.numpy.save_file`.

  Raises:
    ValueError: variables are missing or left over, or shapes are wrong; all are
      named. Or `names`, `feature_maps` or `untracked` name what does not exist.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from normjax.linen import BatchNorm, variables_to_torch
    >>> norm, x = BatchNorm(use_running_average=True), jnp.ones((4, 3))
    >>> variables = norm.init(jax.random.key(0), x)
    >>> state_dict = variables_to_torch(variables, norm, x, names={"bn1": ""})
    >>> for key in sorted(state_dict):
    ...   print(key, state_dict[key])
    bn1.bias [0. 0. 0.]
    bn1.num_batches_tracked 0
    bn1.running_mean [0. 0. 0.]
    bn1.running_var [1. 1. 1.]
    bn1.weight [1. 1. 1.]
  """
  plan = _plan(model, args, kwargs, names, feature_maps, untracked)
  leaves = traverse_util.flatten_dict(meta.unbox(variables))
  return arrays_to_torch(leaves, plan, num_batches_tracked)


_LAYERS = Layers(
  (nn.Dense,),
  (nn.Conv,),
  (nn.ConvTranspose,),
  (nn.Embed,),
  (BatchNorm, nn.BatchNorm),
  (
    *(LayerNorm, RMSNorm, GroupNorm, InstanceNorm),
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm),
  ),
)


def _plan(
  model: nn.Module,
  args: tuple[Any, ...],
  kwargs: dict[str, Any],
  names: Mapping[str, str] | None,
  feature_maps: Mapping[str, Sequence[int]] | None,
  untracked: Collection[str],
) -> Plan:
  """Returns what corresponds; arguments as of `variables_from_torch`."""
  modules, leaves = _traced(model, args, kwargs)
  return make_plan(_LAYERS, modules, leaves, names, feature_maps, untracked)


def _traced(
  model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[Path, nn.Module], dict[Path, jax.ShapeDtypeStruct]]:
  """Returns the modules that a model calls, and the shapes of its variables."""
  modules = {}

  def record(
    method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
  ) -> Any:
    modules[context.module.path] = context.module
    return method(*args, **kwargs)

  def init() -> Any:
    inputs, options = jax.tree.map(_instance, (args, kwargs))
    return model.init(jax.random.key(0), *inputs, **options)

  with nn.intercept_methods(record):
    variables = jax.eval_shape(init)
  return modules, traverse_util.flatten_dict(meta.unbox(variables))


def _instance(value: Any) -> Any:
  """Returns zeros for a shape, and any other value as it is."""
  if isinstance(value, jax.ShapeDtypeStruct):
    return jnp.zeros(value.shape, value.dtype)
  return value
