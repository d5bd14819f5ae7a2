"""Where and when a run was made: machine, load, date, commit."""

import datetime
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

import jax


def current() -> dict[str, Any]:
  """Returns the processor, its cores, the load, the date and the commit.

  It does not start JAX, which the suite leaves to its studies.
  """
  return {
    "processor": processor(),
    "cores": os.cpu_count(),
    "load": load(),
    "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    "commit": _commit(),
  }


def load() -> float:
  """Returns the mean number of running processes in the last minute.

  A run alone has about one for each core it uses.
  """
  return round(os.getloadavg()[0], 2)


def device() -> str:
  """Returns the name of JAX's device; for a CPU, that of the processor."""
  if jax.default_backend() == "cpu":
    return processor()
  return jax.devices()[0].device_kind


def processor() -> str:
  """Returns the processor's name on Linux, or else the architecture."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
  except OSError:  # Not Linux.
    return platform.processor() or platform.machine()
  found = re.search(r"model name\s*:\s*(.+)", text)
  return found[1] if found else platform.machine()


def _commit() -> str | None:
  """Returns the commit of the clone, with "+" if files differ from it."""
  folder = pathlib.Path(__file__).parent

  def git(*arguments: str) -> str:
    return subprocess.run(
      ["git", *arguments],
      cwd=folder,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  try:
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", ":/*.py")
  except (OSError, subprocess.CalledProcessError):  # No clone, or no Git.
    return None
  return commit + "+" * bool(changed)
