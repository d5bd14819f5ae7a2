"""Variables of Linen models from state dicts of PyTorch, and back.

Convolutions, linear layers and embeddings are here with the norms, because a
model can only be moved as a whole. PyTorch itself is not needed.
"""

import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from flax.core import meta
from numpy.typing import ArrayLike

from normjax.linen.torch_plan import Shape, make_plan


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
  if not isinstance(state_dict, Mapping):
    state_dict = _loaded(state_dict)
  arrays = {key: _array(key, value) for key, value in state_dict.items()}
  plan = make_plan(model, args, kwargs, names, feature_maps, untracked)
  _check(
    "state dict",
    {key: array.shape for key, array in arrays.items()},
    {entry.key: entry.torch_shape for entry in plan.entries},
    origin={entry.key: "/".join(entry.path) for entry in plan.entries},
    optional=plan.counters,
  )
  # Copies: on CPUs, JAX may share the memory of an array that PyTorch changes.
  variables = {
    path: jnp.full(leaf.shape, path[-1] == "var", leaf.dtype)
    for path, leaf in plan.untracked.items()
  }
  variables |= {
    entry.path: jnp.array(
      entry.found.from_torch(arrays[entry.key]), entry.leaf.dtype, copy=True
    )
    for entry in plan.entries
  }
  return traverse_util.unflatten_dict(variables)


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
  plan = make_plan(model, args, kwargs, names, feature_maps, untracked)
  leaves = traverse_util.flatten_dict(meta.unbox(variables))
  _check(
    "variables",
    {"/".join(path): np.shape(leaf) for path, leaf in leaves.items()},
    {"/".join(entry.path): entry.leaf.shape for entry in plan.entries}
    | {"/".join(path): leaf.shape for path, leaf in plan.untracked.items()},
  )
  arrays = {
    entry.key: np.array(
      entry.found.to_torch(np.asarray(leaves[entry.path])),
      dtype=leaves[entry.path].dtype,
      order="C",
    )
    for entry in plan.entries
  }
  count = np.array(num_batches_tracked, np.int64)
  return arrays | {key: count.copy() for key in plan.counters}


def _check(
  what: str,
  given: Mapping[str, Shape],
  expected: Mapping[str, Shape],
  *,
  optional: Collection[str] = (),
  origin: Mapping[str, str] | None = None,
) -> None:
  """Raises ValueError with all differences between names and shapes.

  Args:
    what: What is given.
    given: Shapes by name.
    expected: The same, as the model has them.
    optional: Names that may be given.
    origin: For each expected name, what it is in the model.
  """
  problems = {
    "missing": [
      f"{name} (for {origin[name]})" if origin else name
      for name in expected
      if name not in given
    ],
    "left over": [
      name for name in given if name not in expected and name not in optional
    ],
    "wrong shape": [
      f"{name} is {given[name]}, expected {shape}"
      for name, shape in expected.items()
      if given.get(name, shape) != shape
    ],
  }
  if any(problems.values()):
    listed = [f"{p}: {', '.join(n)}" for p, n in problems.items() if n]
    raise ValueError(
      "\n  ".join([f"The {what} and the Linen model differ.", *listed])
    )


def _loaded(path: str | os.PathLike[str]) -> Mapping[str, ArrayLike]:
  """Returns the arrays of a `.safetensors` file."""
  expected = (
    "state_dict must be a mapping of names to arrays, or the path of a"
    " .safetensors file, got"
  )
  if not isinstance(path, str | os.PathLike):
    raise TypeError(f"{expected} {type(path).__name__}.")
  if pathlib.Path(path).suffix != ".safetensors":
    raise ValueError(
      f"{expected} {os.fspath(path)!r}. Read what torch.save wrote with"
      " torch.load(path, map_location='cpu'), and pass that."
    )
  try:
    from safetensors.numpy import load_file
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f"To read {os.fspath(path)!r}, install the package safetensors (pip"
      " install safetensors), or pass a mapping of names to arrays."
    ) from error
  return load_file(path)


def _array(key: str, value: ArrayLike) -> np.ndarray:
  """Returns the NumPy array of an entry of a state dict."""
  try:
    return np.asarray(value)
  except (TypeError, RuntimeError) as error:  # Of PyTorch's tensors.
    error.add_note(
      f"{key!r} must be an array, or a tensor that NumPy can read: pass"
      " value.detach().cpu(), with .float() if it is bfloat16."
    )
    raise
