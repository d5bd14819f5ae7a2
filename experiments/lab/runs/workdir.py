"""The folder of a run: locked while it runs, and reused to resume it.

A run writes `config.json` (its command, versions and settings), its
measurements and trainings so far, and at the end `summary.json`.
"""

import contextlib
import dataclasses
import fcntl
import io
import itertools
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from absl import logging

from experiments.lab.errors import RefusedError
from experiments.lab.runs import files, machine, versions

_ROOT = pathlib.Path("runs")
_LOCK = ".lock"


class Files(NamedTuple):
  """Where a run reads and writes; this does not change its numbers."""

  workdir: str | None = None
  resume: bool = False
  data_dir: str | None = None


class WorkdirError(RefusedError):
  """The folder does not fit this run; the message says what to do."""


@contextlib.contextmanager
def opened(
  study: str,
  config: Any,
  where: Files,
  command: str,
  made_with: Callable[[], dict[str, str]] = lambda: versions.current(),
) -> Iterator[pathlib.Path]:
  """Opens the folder of a run, new or resumed, which is locked until the end.

  The folder of a finished run is only read, and not locked.

  Args:
    study: Name of the study.
    config: The settings, a dataclass.
    where: The folder, and whether it may hold a run.
    command: Command line of the run.
    made_with: Returns the versions to record.

  Yields:
    The folder, with its `config.json`. If the block refuses a new run before
    anything is measured, the folder and the parents made for it are removed.

  Raises:
    WorkdirError: The folder holds something else, cannot be written or is used
      by another process.
  """
  named = pathlib.Path(where.workdir or _ROOT)
  with _writable(named):
    _check(where.workdir, study=study, resume=where.resume)
    finished = where.workdir and summary(named) is not None
  if finished:
    yield named
    return
  with _locked(where.workdir, study) as folder:
    if not (folder / "config.json").exists():
      begun = {
        "study": study,
        "command": command,
        "versions": made_with(),
        "machine": machine.current(),
        "config": dataclasses.asdict(config),
      }
      with _writable(folder):
        files.write_record(folder / "config.json", begun)
    yield folder


def recorded(
  folder: pathlib.Path, study: str, config: Any, command: str
) -> tuple[Any, dict[str, str]]:
  """Returns the settings and versions with which the run in a folder began.

  Args:
    folder: From `opened`.
    study, config, command: As in `opened`. Settings of the config that are
      "auto" are, in the returned one, what the run used from its start.

  Raises:
    WorkdirError: They are unknown, or the settings differ; the message lists
      how.
  """
  try:
    found = files.read_record(folder / "config.json")
  except files.DamagedError as error:
    raise WorkdirError(
      f"{error}\nSo the settings of this run are unknown. Run it in another"
      f" folder:\n{command}"
    ) from error
  assert found is not None, "written by `opened`"
  if found["study"] != study:
    raise WorkdirError(
      f"The run in {folder} is one of {found['study']}, not of {study}. Choose"
      " another folder, or continue it with its own command:\n"
      f"{found['command']}"
    )
  config = same_config(found["config"], config, found["command"])
  return config, found["versions"]


def summary(folder: pathlib.Path) -> dict[str, Any] | None:
  """Returns the summary of a finished run; None without one, or if damaged."""
  try:
    return files.read_record(folder / "summary.json")
  except files.DamagedError:
    return None


def _check(
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
    raise WorkdirError(
      f"--workdir={folder} is a file, not a folder. Choose another folder."
    )
  # Hidden files are the lock.
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


@contextlib.contextmanager
def _locked(
  workdir: str | os.PathLike[str] | None, study: str
) -> Iterator[pathlib.Path]:
  """Makes the folder of a run if necessary, and keeps others out of it.

  The lock ends with the process, however that ends.

  Args:
    workdir: The folder; None stands for a new folder `runs/STUDY/TIME`.
    study: Name of the study.

  Yields:
    The folder. If the block refuses a new run that has not measured, it is
    removed, with the parents that were made for it.

  Raises:
    WorkdirError: The folder cannot be written, or another process uses it.
  """
  folder = pathlib.Path(workdir) if workdir else _unused(study)
  with _writable(folder):
    while True:
      absent = [path for path in (folder, *folder.parents) if not path.exists()]
      try:
        folder.mkdir(parents=True, exist_ok=bool(workdir))
        break
      except FileExistsError:
        if workdir:
          raise
        folder = _unused(study)  # Another run has just taken the name.
    file = _lock(folder)
  is_new = not (folder / "config.json").exists()
  with file:
    try:
      with _writable(folder):
        _sign(file)
        for place in (
          folder,
          *folder.glob("parts"),
          *folder.glob("checkpoints/*"),
        ):
          files.remove_incomplete(place)
      yield folder
    except RefusedError:
      if is_new:
        _remove_unused(folder, absent)
      raise


@contextlib.contextmanager
def _writable(folder: pathlib.Path) -> Iterator[None]:
  """Refuses the run if the folder cannot be written in this block."""
  try:
    yield
  except OSError as error:
    raise WorkdirError(
      f"Nothing can be written to {folder}: {error.strerror}"
      f" ({error.filename or folder}). Choose another folder with --workdir."
    ) from error


def _unused(study: str) -> pathlib.Path:
  """Returns a path `runs/STUDY/TIME` that does not exist."""
  started = _ROOT / study / time.strftime("%Y%m%d-%H%M%S")
  folder, numbers = started, itertools.count(2)
  while folder.exists():  # Another run started in the same second.
    folder = started.with_name(f"{started.name}-{next(numbers)}")
  return folder


def _lock(folder: pathlib.Path) -> io.FileIO:
  """Returns the locked file of a folder, or refuses the run."""
  path = folder / _LOCK
  while True:
    # Unbuffered, so that closing it cannot fail on a full disk.
    file = path.open("a+b", buffering=0)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      with file:
        file.seek(0)
        holder = file.read().decode(errors="replace") or "another process"
      raise WorkdirError(
        f"{folder} is in use by {holder}. Wait until it ends, or stop it, or"
        " choose another folder."
      ) from error
    except OSError as error:  # Some network file systems have no locks.
      logging.warning(
        "%s cannot be locked (%s). Do not start a second run in it.",
        folder,
        error.strerror,
      )
      return file
    # A run that was refused may have removed the file meanwhile.
    if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
      return file
    file.close()


def _sign(file: io.FileIO) -> None:
  """Writes into the locked file who locked it."""
  file.truncate(0)
  now = time.strftime("%Y-%m-%d %H:%M:%S")
  text = f"process {os.getpid()} on {platform.node()} since {now}"
  file.write(text.encode())


def same_config(recorded: Mapping[str, Any], config: Any, command: str) -> Any:
  """Returns the configuration for resuming a run.

  Args:
    recorded: The configuration in `config.json`.
    config: The dataclass from the command line. Settings that are "auto" are
      what the run used from its start.
    command: Command line of the run.

  Raises:
    WorkdirError: The configurations differ; the message lists how.
  """
  begun = {
    name: recorded[name]
    for name, value in dataclasses.asdict(config).items()
    if value == "auto" and name in recorded
  }
  config = dataclasses.replace(config, **begun)
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
      + "\nStart a new run in another folder, or resume it with the flags of"
      + f"\n{command}"
    )
  return config


def _remove_unused(folder: pathlib.Path, made: list[pathlib.Path]) -> None:
  """Removes what a run left that was refused before it measured.

  Args:
    folder: Of the run. Nothing is removed if it holds measurements.
    made: Folders that were made for it; removed as far as they are empty.
  """
  if {path.name for path in folder.iterdir()} - {"config.json", _LOCK}:
    return
  for name in ("config.json", _LOCK):
    (folder / name).unlink(missing_ok=True)
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
