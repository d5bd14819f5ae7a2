"""State dicts of PyTorch, and how they become arrays of Flax and back."""

import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from normjax.lifecycle.torch_plan import Path, Plan, Shape


def arrays_from_torch(
  state_dict: Mapping[str, ArrayLike] | str | os.PathLike[str], plan: Plan
) -> dict[Path, jax.Array]:
  """Returns the variables of a plan by their paths.

  Args:
    state_dict: Arrays by name, or the path of a `.safetensors` file.
    plan: What corresponds.

  Raises:
    ValueError: names are missing or left over, or shapes are wrong.
  """
  if not isinstance(state_dict, Mapping):
    state_dict = _loaded(state_dict)
  arrays = {key: _array(key, value) for key, value in state_dict.items()}
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
  return variables | {
    entry.path: jnp.array(
      entry.found.from_torch(arrays[entry.key]), entry.leaf.dtype, copy=True
    )
    for entry in plan.entries
  }


def arrays_to_torch(
  leaves: Mapping[Path, Any], plan: Plan, num_batches_tracked: int
) -> dict[str, np.ndarray]:
  """Returns the state dict of variables by their paths.

  Raises:
    ValueError: variables are missing or left over, or shapes are wrong.
  """
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
      "\n  ".join([f"The {what} and the model differ.", *listed])
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
