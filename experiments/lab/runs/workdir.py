"""The folder of a run: checked before a new run, and reused to resume one.

A run writes `config.json` (its settings), its measurements and trainings so
far, and at the end `summary.json`.
"""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.lab.errors import RefusedError

_ROOT = pathlib.Path("runs")


class Files(NamedTuple):
  """Where a run reads and writes; this does not change its numbers."""

  workdir: str | None = None
  resume: bool = False
  data_dir: str | None = None


class WorkdirError(RefusedError):
  """The folder does not fit this run; the message says what to do."""


def check(
  workdir: str | os.PathLike[str] | None, *, study: str, resume: bool
) -> None:
  """Checks the folder of a run, without creating anything.

  Args:
    workdir: The folder; None means a new one.
    study: Name of the study.
    resume: Whether the folder may hold a run. It may also be empty or missing,
      because a run may be killed before it writes anything.

  Raises:
    WorkdirError: The folder is not empty, and `resume` is false or it is not
      a run; or `resume` is true without a folder.
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
  # Hidden files may be temporary files of a killed run.
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


def new(study: str) -> pathlib.Path:
  """Creates and returns a folder `runs/STUDY/TIME`."""
  parent = _ROOT / study
  parent.mkdir(parents=True, exist_ok=True)
  started = time.strftime("%Y%m%d-%H%M%S")
  folder, number = parent / started, 1
  while True:
    try:
      folder.mkdir()
      return folder
    except FileExistsError:  # Another run started in the same second.
      number += 1
      folder = parent / f"{started}-{number}"


def same_config(recorded: Mapping[str, Any], config: Any) -> Any:
  """Returns the configuration for resuming a run.

  Args:
    recorded: Content of `config.json`.
    config: The dataclass from the command line. If its `dataset` is "auto", it
      is the data set that the run used from its start.

  Raises:
    WorkdirError: The configurations differ; the message lists how.
  """
  if getattr(config, "dataset", "") == "auto":
    config = dataclasses.replace(config, dataset=recorded["dataset"])
  # Tuples become lists.
  current = json.loads(json.dumps(dataclasses.asdict(config)))
  differences = [
    f"  --{name}: {recorded.get(name)} in the run, {current.get(name)} now"
    for name in {**recorded, **current}
    if recorded.get(name) != current.get(name)
  ]
  if differences:
    raise WorkdirError(
      "The run in --workdir has another configuration:\n"
      + "\n".join(differences)
      + "\nResume it with the same flags, or start a new run in another folder."
    )
  return config


def prepare(
  workdir: str | os.PathLike[str] | None, study: str
) -> tuple[pathlib.Path, list[pathlib.Path]]:
  """Returns the folder of a run, and the folders that do not exist without it.

  Args:
    workdir: The folder; None stands for a new one, which is made.
    study: Name of the study.
  """
  folder = pathlib.Path(workdir) if workdir else _ROOT / study / "new"
  absent = [path for path in (folder, *folder.parents) if not path.exists()]
  if workdir:
    return folder, absent
  folder = new(study)
  return folder, [folder, *absent[1:]]


def remove_unused(folder: pathlib.Path, made: Sequence[pathlib.Path]) -> None:
  """Removes what a run left that was refused before it measured.

  Args:
    folder: Of the run. Nothing is removed if it holds more than config.json.
    made: Folders that were made for it; removed as far as they are empty.
  """
  if [path.name for path in folder.iterdir()] != ["config.json"]:
    return
  (folder / "config.json").unlink()
  for path in made:
    if any(path.iterdir()):
      return
    path.rmdir()


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
