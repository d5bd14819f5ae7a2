"""Kills runs at random moments, many times, and compares their results.

    python -m tests.experiments.soak --kills=50

Four runs take turns: MNIST, a transformer, a study with parts, and a
transformer in two processes. Each is killed (SIGKILL, SIGTERM or SIGINT) after
a random time and resumed, and has to end with the bits of a run that was left
alone; then it begins anew. Takes about ten minutes on two cores, too long for
the test suite.
"""

import argparse
import contextlib
import itertools
import os
import pathlib
import random
import shutil
import signal
import tempfile
import time

from tests.experiments import programs

SMALL = (
  *("--layers=1", "--width=16", "--heads=2", "--context=16"),
  *("--batch_size=4", "--eval_every=20", "--dataset=letters"),
)
RUNS = {
  "mnist": (
    1,
    "mnist",
    ("--dataset=digits", "--norm=none,bn", "--seeds=2", "--epochs=300"),
  ),
  "transformer": (1, "transformer", (*SMALL, "--steps=1000", "--norm=ln,bn")),
  "smoothness": (1, "smoothness", ("--quick", "--dataset=digits", "--seeds=4")),
  "pair": (2, "transformer", (*SMALL, "--steps=200", "--norm=bn")),
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def start(name, folder):
  """Starts the process or the pair of a run."""
  count, module, arguments = RUNS[name]
  arguments = *arguments, f"--workdir={folder}", "--resume"
  if count == 1:
    return [programs.start(module, *arguments)]
  return programs.start_together(count, module, *arguments)


def finished(folder):
  return (folder / "summary.json").exists()


def disturb(name, folder, seconds, rng):
  """Runs for at most some seconds; returns how the run was ended."""
  processes = start(name, folder)
  deadline = time.monotonic() + rng.uniform(0.2, 1) * seconds
  while time.monotonic() < deadline and processes[0].poll() is None:
    time.sleep(0.002)
  if processes[0].poll() is not None:
    for process in processes:
      programs.output(process)
    return None
  number = rng.choice(SIGNALS)
  for process in rng.sample(processes, len(processes)):
    process.send_signal(number)
    output, _ = process.communicate()
    assert "Traceback" not in output, output
  return signal.Signals(number).name


def compare(name, folder):
  """Ends the program unless the results are those of the run left alone."""
  whole = programs.numbers(pathlib.Path(f"{name}-whole"))
  assert programs.numbers(folder) == whole, f"{folder.absolute()} differs."
  print(f"{name}: the same numbers", flush=True)
  shutil.rmtree(folder)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=50)
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  rng = random.Random(options.seed)
  root = pathlib.Path(tempfile.mkdtemp())
  os.environ.setdefault("NORMJAX_CACHE_DIR", str(root / "cache"))
  with contextlib.chdir(root):
    letters = random.Random(0).choices("abcdefgh", k=4000)
    pathlib.Path("letters").write_text("".join(letters))
    seconds = {}
    for name in RUNS:
      # The second time, all is compiled.
      for attempt in ("first", "whole"):
        began = time.monotonic()
        for process in start(name, f"{name}-{attempt}"):
          programs.output(process)
        seconds[name] = time.monotonic() - began
      print(f"{name}: {seconds[name]:.1f} s if left alone", flush=True)
    kills = 0
    for name in itertools.cycle(RUNS):
      if kills == options.kills:
        break
      folder = pathlib.Path(f"{name}-killed")
      if ending := disturb(name, folder, seconds[name], rng):
        kills += 1
        reached = programs.evaluations(folder)
        print(f"{kills}: {name} {ending}, {reached} evaluations", flush=True)
      if finished(folder):
        compare(name, folder)
    for name in RUNS:
      folder = pathlib.Path(f"{name}-killed")
      for process in start(name, folder):
        programs.output(process)
      compare(name, folder)


if __name__ == "__main__":
  main()
