"""Kills runs at random moments, many times, and compares their results.

    python -m tests.experiments.soak --kills=50

Four runs take turns: MNIST, a transformer, a study with parts, and a
transformer in two processes. Each is killed (SIGKILL, SIGTERM or SIGINT) after
a random time and resumed, and has to end with the bits of a run that was left
alone. Takes about ten minutes on two cores; too long for the test suite.
"""

import argparse
import contextlib
import os
import pathlib
import random
import signal
import socket
import tempfile
import time

from tests.experiments import programs

SMALL = (
  *("--layers=1", "--width=16", "--heads=2", "--context=16"),
  *("--batch_size=4", "--eval_every=5", "--dataset=letters"),
)
RUNS = {
  "mnist": (
    1,
    "mnist",
    ("--dataset=digits", "--norm=none,bn", "--seeds=2", "--epochs=30"),
  ),
  "transformer": (1, "transformer", (*SMALL, "--steps=200", "--norm=ln,bn")),
  "smoothness": (1, "smoothness", ("--quick", "--dataset=digits")),
  "pair": (2, "transformer", (*SMALL, "--steps=40", "--norm=bn")),
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def start(name, folder):
  """Starts the process or the pair of a run."""
  count, module, arguments = RUNS[name]
  arguments = *arguments, f"--workdir={folder}", "--resume"
  if count == 1:
    return [programs.start(module, *arguments)]
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  return [
    programs.start(
      module,
      *arguments,
      f"--coordinator_address=127.0.0.1:{port}",
      f"--num_processes={count}",
      f"--process_id={number}",
    )
    for number in range(count)
  ]


def disturb(name, folder, seconds, rng):
  """Runs for at most some seconds; returns what was done to the run."""
  processes = start(name, folder)
  deadline = time.monotonic() + rng.uniform(0, seconds)
  while time.monotonic() < deadline:
    if processes[0].poll() is not None:
      break
    time.sleep(0.002)
  number = rng.choice(SIGNALS)
  for process in rng.sample(processes, len(processes)):
    process.send_signal(number)
    output, _ = process.communicate()
    if "Traceback" in output and number == signal.SIGKILL:
      raise AssertionError(output)
  return signal.Signals(number).name


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=50)
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  rng = random.Random(options.seed)
  root = pathlib.Path(tempfile.mkdtemp())
  os.environ.setdefault("NORMJAX_CACHE_DIR", str(root / "cache"))
  failed = []
  with contextlib.chdir(root):
    letters = random.Random(0).choices("abcdefgh", k=4000)
    pathlib.Path("letters").write_text("".join(letters))
    seconds = {}
    for name in RUNS:
      began = time.monotonic()
      for process in start(name, f"{name}-whole"):
        programs.output(process)
      seconds[name] = time.monotonic() - began
      print(f"{name}: {seconds[name]:.1f} s undisturbed", flush=True)
    for kill in range(options.kills):
      name = list(RUNS)[kill % len(RUNS)]
      done = disturb(name, f"{name}-killed", seconds[name], rng)
      reached = programs.evaluations(pathlib.Path(f"{name}-killed"))
      print(f"{kill + 1}: {name} {done}, {reached} evaluations", flush=True)
    for name in RUNS:
      for process in start(name, f"{name}-killed"):
        programs.output(process)
      whole, killed = (
        programs.numbers(pathlib.Path(f"{name}-{kind}"))
        for kind in ("whole", "killed")
      )
      if whole != killed:
        failed.append(name)
      print(f"{name}: {'DIFFERENT' if whole != killed else 'the same'}")
  if failed:
    raise SystemExit(f"Not the same: {', '.join(failed)}, in {root}")


if __name__ == "__main__":
  main()
