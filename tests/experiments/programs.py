"""Starts the programs of experiments/ as a user does, and ends them early."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from experiments.lab.runs import files
from tests import compiling

_SECONDS = 300.0  # Until a program counts as one that does not end.
ROOT = pathlib.Path(__file__).parents[2]


# Forks, because to import JAX and what studies share again takes seconds.
_SHOW_HELP = """
import json, os, runpy, sys, warnings
from experiments.lab import study, tuning
from experiments.lab.training import classification
warnings.simplefilter("ignore")  # JAX warns of forks.
texts = {}
for module in sys.argv[1:]:
  read, write = os.pipe()
  if not os.fork():
    os.dup2(write, 1)
    sys.argv = [module, "--help"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
  os.close(write)
  with os.fdopen(read) as file:
    texts[module] = file.read()
print(json.dumps(texts))
"""


def helps(modules):
  """Returns what `python -m MODULE --help` prints, by module."""
  shown = subprocess.run(
    [sys.executable, "-c", _SHOW_HELP, *modules],
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    check=True,
    timeout=_SECONDS,
  )
  return json.loads(shown.stdout)


def start(name, *arguments, **environment):
  """Starts `python -m experiments.NAME` in the working directory."""
  return subprocess.Popen(
    [sys.executable, "-m", f"experiments.{name}", *arguments],
    env={
      **os.environ,
      "PYTHONPATH": str(ROOT),
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": compiling.flags(),
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # Compiles sooner.
      **environment,
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def start_together(count, name, *arguments, **environment):
  """Starts a program in several processes that train together."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  return [
    start(
      name,
      *arguments,
      f"--coordinator_address=127.0.0.1:{port}",
      f"--num_processes={count}",
      f"--process_id={number}",
      **environment,
    )
    for number in range(count)
  ]


def output(process, status=0):
  """Waits for the end with an exit status; returns what was printed."""
  try:
    text, _ = process.communicate(timeout=_SECONDS)
  finally:
    process.kill()
  assert process.returncode == status, f"{process.returncode}\n{text}"
  return text


def wait(process, reached):
  """Waits until `reached()` is true while the process runs."""
  deadline = time.monotonic() + _SECONDS
  while not reached():
    assert time.monotonic() < deadline
    assert process.poll() is None, f"Ended early:\n{process.stdout.read()}"
    time.sleep(0.001)


def kill(process, reached):
  """Kills a process, frozen in a moment that holds while it is frozen."""
  with process.stdout:
    while True:
      wait(process, reached)
      process.send_signal(signal.SIGSTOP)
      os.waitpid(process.pid, os.WUNTRACED)  # Until it does stand still.
      if reached():
        break
      process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


def evaluations(folder):
  """Returns how many evaluations are logged."""
  file = folder / "metrics.jsonl"
  return file.read_text().count("\n") if file.exists() else 0


def results(folder):
  """Returns the results of a finished run, without times and commands."""
  log = folder / "metrics.jsonl"
  lines = log.read_text().splitlines() if log.exists() else []
  return {
    "summary": json.loads(
      (folder / "summary.json").read_text(), object_hook=_timeless
    ),
    "metrics": [json.loads(line, object_hook=_timeless) for line in lines],
  }


def numbers(folder):
  """Returns the results, and the bits of all saved arrays."""
  found = results(folder)
  for path in sorted(folder.rglob("*.npz")):
    arrays = _timeless(files.read_arrays(path))
    arrays.pop("records", None)  # They are in the metrics.
    found[str(path.relative_to(folder))] = {
      name: (array.dtype.str, array.tobytes()) for name, array in arrays.items()
    }
  return found


def _timeless(entries):
  return {
    name: value
    for name, value in entries.items()
    if "second" not in name
    and name not in ("minutes", "machine", "command", "checksums", "sha256")
  }
