"""The folder of a run: refused if taken, resumed after a kill.

A run leaves `config.json` (what it was asked), `checkpoints/` (where it was
after an epoch) and, when it is over, `summary.json`.
"""

import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

PyTree = Any
Record = dict[str, Any]

_ROOT = pathlib.Path("runs")


class WorkdirError(Exception):
  """The folder cannot serve this run; the message says what to do."""


def check_workdir(
  workdir: str | os.PathLike[str] | None, *, study: str, resume: bool
) -> None:
  """Refuses a folder that cannot serve a run; makes nothing.

  Args:
    workdir: The folder; None stands for a new one.
    study: Name of the study.
    resume: Whether the folder may hold a run. One that is empty or does not
      exist is fine too: a run may be killed before it left anything.

  Raises:
    WorkdirError: The folder holds something, and `resume` is false or it is
      not a run; or `resume` comes without a folder.
  """
  if workdir is None:
    if resume:
      raise WorkdirError(_which_run(study))
    return
  folder = pathlib.Path(workdir)
  if not folder.exists():
    return
  if not folder.is_dir():
    raise WorkdirError(f"--workdir={folder} is a file, not a folder.")
  # Hidden files may be what a killed run was about to rename.
  found = sorted(path.name for path in folder.glob("[!.]*"))
  if found and not resume:
    raise WorkdirError(
      f"--workdir={folder} already holds {', '.join(found)}. Add --resume to"
      " continue that run, or choose another folder."
    )
  if found and "config.json" not in found:
    raise WorkdirError(
      f"--workdir={folder} holds {', '.join(found)}, but no config.json: there"
      " is no run to resume."
    )


def new_workdir(study: str) -> pathlib.Path:
  """Makes and returns a folder `runs/STUDY/TIME`."""
  parent = _ROOT / study
  parent.mkdir(parents=True, exist_ok=True)
  started = time.strftime("%Y%m%d-%H%M%S")
  folder, number = parent / started, 1
  while True:
    try:
      folder.mkdir()
      return folder
    except FileExistsError:  # Of a run that started in the same second.
      number += 1
      folder = parent / f"{started}-{number}"


def read_json(path: pathlib.Path) -> Any | None:
  """Returns what a JSON file holds, or None where there is no such file."""
  return json.loads(path.read_text()) if path.exists() else None


def check_same_config(
  recorded: Mapping[str, Any], current: Mapping[str, Any]
) -> None:
  """Refuses to resume a run with another configuration.

  Args:
    recorded: What `config.json` holds.
    current: The same of the command line.

  Raises:
    WorkdirError: They differ; the message lists each difference.
  """
  current = json.loads(json.dumps(current))  # Tuples become lists.
  differences = [
    f"  --{name}: {recorded.get(name)} in the run, {current.get(name)} now"
    for name in {**recorded, **current}
    if recorded.get(name) != current.get(name)
  ]
  if differences:
    raise WorkdirError(
      "The run in --workdir has another configuration:\n"
      + "\n".join(differences)
      + "\nResume it with its own, or start another run in another folder."
    )


def _which_run(study: str) -> str:
  message = "--resume needs --workdir, the folder of the run to continue."
  unfinished = [
    path
    for path in (_ROOT / study).glob("*/config.json")
    if not (path.parent / "summary.json").exists()
  ]
  if not unfinished:
    return f"{message} No unfinished run was found in {_ROOT / study}."
  newest = max(unfinished, key=lambda path: path.stat().st_mtime)
  return f"{message} The newest unfinished one: --workdir={newest.parent}"


class Checkpoints:
  """The last checkpoints of a run, written by Orbax in the background.

  A checkpoint counts only when it is complete; what a killed process left of
  an unfinished one is ignored, and removed in time. A context manager, which
  waits at its end for what is still being written.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    """Opens the folder, which need not exist.

    Args:
      folder: Of this run alone.
    """
    self._folder = pathlib.Path(folder).absolute()
    self._opened: Any = None

  @property
  def _manager(self) -> Any:
    # Orbax is slow to import, and first needed when an epoch is over.
    if self._opened is None:
      import orbax.checkpoint as ocp

      process = jax.process_index()
      self._folder.mkdir(parents=True, exist_ok=True)
      self._opened = ocp.CheckpointManager(
        self._folder,
        options=ocp.CheckpointManagerOptions(
          # Two: the one being written takes the place of an older one only
          # after it is complete.
          max_to_keep=2,
          cleanup_tmp_directories=True,
          # Of several processes each is on its own here, and the first writes.
          multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=process,
            active_processes={process} if jax.process_count() > 1 else None,
            barrier_sync_key_prefix=f"process{process}",
          ),
          create=False,  # Orbax refuses to, for one of several processes.
        ),
        item_names=("tree", "records"),
      )
    return self._opened

  def save(self, step: int, tree: PyTree, records: Sequence[Record]) -> None:
    """Saves a checkpoint in the background; of several processes, the first.

    Args:
      step: Above that of all earlier checkpoints.
      tree: Arrays, typed keys included. Copied before this returns.
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
    """Returns the records of the newest checkpoint; none without one."""
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
      template: Shapes, dtypes and structure, such as of `jax.eval_shape`.
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
  """Returns what can be restored on any number of devices."""
  leaf = _without_key(leaf)
  several = isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1
  return np.asarray(leaf) if several else leaf


def _with_key(leaf: Any, template: Any) -> Any:
  return jax.random.wrap_key_data(leaf) if _is_key(template) else leaf
