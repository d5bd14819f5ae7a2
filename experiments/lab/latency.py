"""Latencies: paired, in fresh processes, on an idle machine, or not judged.

The time of a call depends on the process: where its memory lies, what was
compiled before. So a process is here what a seed is elsewhere. Every process is
new and times all programs of a case in turns; the next one starts when it has
ended. A claim about times is judged only if there are `PROCESSES` of them or
more, and if the machine was idle before the run began: other programs slow one
arm down more than another. Otherwise the numbers are shown, and the reason why
they decide nothing.
"""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from experiments.lab import timing
from experiments.lab.run import Run

PROCESSES = 10  # The fewest that a claim is judged by.
IDLE_LOAD = 0.5  # The highest load before the start that counts as idle.
SAMPLE_SECONDS = 0.02  # Length of a sample, which is the mean of many calls.

# Calls by case and arm; each returns JAX arrays, which are waited for.
Programs = Mapping[str, Mapping[str, Callable[[], Any]]]
T = TypeVar("T")


class Latencies(NamedTuple):
  """The times of all processes.

  Attributes:
    seconds: Seconds of a call, by case and arm, `[processes]`: the median of
      each process.
    loads: The load of the machine before the start, or the resumption, of the
      run that timed each process, `[processes]`.
  """

  seconds: Mapping[str, Mapping[str, np.ndarray]]
  loads: np.ndarray

  @property
  def doubt(self) -> str:
    """Why no claim may be judged by them; an empty text if it may.

    >>> Latencies({}, np.full(10, 0.1)).doubt
    ''
    >>> print(Latencies({}, np.full(9, 0.1)).doubt)
    claims need 10 processes, this run has 9
    """
    if (count := len(self.loads)) < PROCESSES:
      return f"claims need {PROCESSES} processes, this run has {count}"
    return busy(float(self.loads.max()))


def busy(load: float) -> str:
  """Returns a sentence about a load that is too high; an empty text if not.

  >>> print(busy(1.25))
  the load before the start was 1.25, more than 0.5: other programs were running
  """
  if load <= IDLE_LOAD:
    return ""
  return (
    f"the load before the start was {load:g}, more than {IDLE_LOAD:g}: other"
    " programs were running"
  )


def measured(
  run: Run,
  programs: Callable[..., Programs],
  arguments: Mapping[int, Sequence[Any]],
  *,
  load: float,
  rounds: int,
) -> Latencies:
  """Times programs in fresh processes, one process after the other.

  Args:
    run: Keeps the samples of each process as a part, so that a resumed run does
      not time them again.
    programs: Makes the programs in the process. It is a function of a module
      that can be imported, so not of the `__main__` of a package.
    arguments: Its arguments, by number of the process; they are pickled.
    load: The load of the machine before this run, or this resumption, did
      anything: `machine.load()`.
    rounds: Number of samples of every program in a process.
  """

  def part(given: Sequence[Any]) -> dict[str, Any]:
    samples = in_fresh_process(_samples, programs, given, rounds)
    return {"load": load, **samples}

  parts = [
    run.part(f"process_{number}", functools.partial(part, given))
    for number, given in arguments.items()
  ]
  loads = np.array([found.pop("load") for found in parts])
  seconds: dict[str, dict[str, np.ndarray]] = {}
  for name in parts[0]:
    case, arm = name.split("/")
    medians = np.array([np.median(found[name]) for found in parts])
    seconds.setdefault(case, {})[arm] = medians
  return Latencies(seconds, loads)


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
  """Returns the result of a function in a new Python process.

  The process ends with this one, however that ends.

  Args:
    function: A function of a module that can be imported.
    *arguments: Its arguments, which are pickled, as is its result.
  """
  with futures.ProcessPoolExecutor(
    1, multiprocessing.get_context("spawn"), _end_with_parent
  ) as pool:
    return pool.submit(function, *arguments).result()


def _samples(
  programs: Callable[..., Programs], arguments: Sequence[Any], rounds: int
) -> dict[str, list[float]]:
  """Returns seconds per call, `{"case/arm": [rounds]}`."""
  return {
    f"{case}/{arm}": samples
    for case, calls in programs(*arguments).items()
    for arm, samples in timing.interleaved(
      {arm: functools.partial(_repeat, call) for arm, call in calls.items()},
      seconds=SAMPLE_SECONDS,
      rounds=rounds,
    ).items()
  }


def _repeat(call: Callable[[], Any], count: int) -> None:
  for _ in range(count):
    jax.block_until_ready(call())


def _end_with_parent() -> None:
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  parent = multiprocessing.parent_process()
  assert parent is not None, "only a child calls this"

  def wait() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
