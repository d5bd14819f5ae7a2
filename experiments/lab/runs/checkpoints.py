"""Checkpoints, from which a killed training continues."""

import os
import pathlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

PyTree = Any
Record = dict[str, Any]


class Checkpoints:
  """The last checkpoints of a run, written by Orbax in the background.

  Only complete checkpoints count. Incomplete ones of a killed process are
  ignored, and removed later. This is a context manager, which at its end waits
  for checkpoints that are still being written.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    """Opens the folder, which need not exist.

    Args:
      folder: Folder for this run only.
    """
    self._folder = pathlib.Path(folder).absolute()
    self._opened: Any = None

  @property
  def _manager(self) -> Any:
    # Orbax is slow to import, and not needed before the end of an epoch.
    if self._opened is None:
      import orbax.checkpoint as ocp

      process = jax.process_index()
      self._folder.mkdir(parents=True, exist_ok=True)
      self._opened = ocp.CheckpointManager(
        self._folder,
        options=ocp.CheckpointManagerOptions(
          # Two: a new one replaces an older one only after it is complete.
          max_to_keep=2,
          cleanup_tmp_directories=True,
          # Each process uses Orbax on its own, and only the first writes.
          multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=process,
            active_processes={process} if jax.process_count() > 1 else None,
            barrier_sync_key_prefix=f"process{process}",
          ),
          create=False,  # Orbax cannot, for one of several processes.
        ),
        item_names=("tree", "records"),
      )
    return self._opened

  def save(self, step: int, tree: PyTree, records: Sequence[Record]) -> None:
    """Saves a checkpoint in the background; only the first process does so.

    Args:
      step: Larger than the steps of all earlier checkpoints.
      tree: Arrays, including typed keys. Copied before this returns.
      records: JSON values.
    """
    if jax.process_index():
      return
    import orbax.checkpoint as ocp

    self._manager.save(
      step,
      args=ocp.args.Composite(
        tree=ocp.args.StandardSave(jax.tree.map(_on_one_host, tree)),
        records=ocp.args.JsonSave(list(records)),
      ),
    )

  def records(self) -> Sequence[Record]:
    """Returns the records of the newest checkpoint; empty without one."""
    if (step := self._latest()) is None:
      return []
    import orbax.checkpoint as ocp

    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(records=ocp.args.JsonRestore()),
    )
    return restored.records

  def restore(self, template: PyTree) -> tuple[int, PyTree] | None:
    """Returns step and tree of the newest checkpoint, or None without one.

    Args:
      template: Gives structure, shapes and dtypes, as from `jax.eval_shape`.
    """
    if (step := self._latest()) is None:
      return None
    import orbax.checkpoint as ocp

    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        tree=ocp.args.StandardRestore(
          jax.eval_shape(
            lambda tree: jax.tree.map(_without_key, tree), template
          )
        )
      ),
    )
    return step, jax.tree.map(_with_key, restored.tree, template)

  def _latest(self) -> int | None:
    return self._manager.latest_step() if self._folder.exists() else None

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._opened is not None:
      self._opened.close()


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_key(leaf: Any) -> Any:
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _on_one_host(leaf: Any) -> Any:
  """Returns an array that can be restored on any number of devices."""
  leaf = _without_key(leaf)
  several = isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1
  return np.asarray(leaf) if several else leaf


def _with_key(leaf: Any, template: Any) -> Any:
  return jax.random.wrap_key_data(leaf) if _is_key(template) else leaf
