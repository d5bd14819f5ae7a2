"""Checkpoints, from which a killed training continues."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from experiments.lab.errors import RefusedError
from experiments.lab.runs import files

PyTree = Any
Record = dict[str, Any]

# If the newest one is damaged, the training continues after the one before.
_KEPT = 2
_RECORDS = "records"


class Checkpoint(NamedTuple):
  """What was saved after a step.

  Attributes:
    path: The file.
    step: Number of steps taken.
    records: The records of the training so far, JSON values.
  """

  path: pathlib.Path
  step: int
  records: list[Record]

  def tree(self, template: PyTree) -> PyTree:
    """Returns the saved tree.

    Args:
      template: Gives structure, shapes and dtypes, as from `jax.eval_shape`.

    Raises:
      RefusedError: The saved tree is another one.
    """
    leaves = files.read_arrays(self.path) or {}

    def leaf(path: jax.tree_util.KeyPath, expected: Any) -> Any:
      raw = jax.eval_shape(_without_key, expected)
      found = leaves.get(jax.tree_util.keystr(path))
      if found is not None and found.dtype.kind == "V":
        found = found.view(raw.dtype)  # NumPy has no name for bfloat16.
      if found is None or (found.shape, found.dtype) != (raw.shape, raw.dtype):
        raise RefusedError(
          f"{self.path} does not fit this model: it has"
          f" {'nothing' if found is None else f'{found.dtype}{found.shape}'}"
          f" as {jax.tree_util.keystr(path)}, expected {raw.dtype}{raw.shape}."
          " Continue with the version of normjax that began the run."
        )
      return _with_key(found) if _is_key(expected) else found

    return jax.tree_util.tree_map_with_path(leaf, template)


class Checkpoints:
  """The last checkpoints of a training: a file `STEP.npz` for each."""

  def __init__(self, folder: str | os.PathLike[str]):
    """Opens the folder, which need not exist.

    Args:
      folder: Folder for this training only.
    """
    self._folder = pathlib.Path(folder)

  def save(self, step: int, tree: PyTree, records: Sequence[Record]) -> None:
    """Saves a checkpoint; of several processes, only the first one does so.

    Args:
      step: Larger than the steps of all earlier checkpoints.
      tree: Arrays, including typed keys.
      records: JSON values.

    Raises:
      OSError: The folder cannot be written, or is full.
    """
    if jax.process_index():
      return
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    files.write_arrays(
      self._folder / f"{step}.npz",
      {
        _RECORDS: np.asarray(json.dumps(files.plain(records))),
        **{
          jax.tree_util.keystr(path): np.asarray(_without_key(leaf))
          for path, leaf in leaves
        },
      },
    )
    # Later ones are damaged, or this training would have continued after them.
    earlier = [old for old in self._steps() if old <= step]
    for old in {*self._steps()} - {*earlier[:_KEPT]}:
      self._path(old).unlink()

  def newest(self) -> Checkpoint | None:
    """Returns the newest checkpoint that is not damaged, or None without one.

    Damaged ones are logged.
    """
    for step in self._steps():
      path = self._path(step)
      try:
        arrays = files.read_arrays(path)
      except files.DamagedError as error:
        logging.warning("%s It is passed over.", error)
        continue
      if arrays is not None:
        return Checkpoint(path, step, json.loads(str(arrays[_RECORDS])))
    return None

  def latest_step(self) -> int | None:
    """Returns the step of the newest checkpoint, which may be damaged."""
    return next(iter(self._steps()), None)

  def _path(self, step: int) -> pathlib.Path:
    return self._folder / f"{step}.npz"

  def _steps(self) -> list[int]:
    """Returns the steps of all checkpoints, the newest first."""
    found = self._folder.glob("[0-9]*.npz")
    return sorted((int(path.stem) for path in found), reverse=True)


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _with_key(leaf: np.ndarray) -> Any:
  return jax.random.wrap_key_data(jnp.asarray(leaf))


def _without_key(leaf: Any) -> Any:
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf
