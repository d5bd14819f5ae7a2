"""The same bits from any number of threads, XLA's or the caller's.

Elsewhere results change with the number of threads, since it decides how sums
are divided: https://github.com/pytorch/pytorch/issues/88718. So nobody else's
machine repeats them: https://github.com/pytorch/pytorch/issues/2201.
"""

import concurrent.futures
import functools
import glob
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

import jax
import jax.numpy as jnp
import numpy as np

import normjax
from normjax.native import library
from tests.native.kernels_test import setUpModule  # noqa: F401


def batch_norm(x, scale, bias):
  return normjax.batch_norm(x, scale, bias, use_running_average=False)[0]


# Large enough to be worked on in parts, rows as well as columns.
NORMS = {
  "layer": (normjax.layer_norm, (1030, 129)),
  "layer of long rows": (normjax.layer_norm, (3, 50000)),
  "rms": (normjax.rms_norm, (1030, 129)),
  "batch": (batch_norm, (3001, 64)),
  "group": (functools.partial(normjax.group_norm, num_groups=8), (2, 1501, 64)),
  "group, channels first": (
    functools.partial(normjax.group_norm, num_groups=4, channel_axis=1),
    (5, 8, 4001),
  ),
  "instance": (normjax.instance_norm, (33, 98, 64)),
  "instance, channels first": (
    functools.partial(normjax.instance_norm, channel_axis=1),
    (5, 8, 4001),
  ),
}
DTYPES = {"layer": jnp.bfloat16, "batch": jnp.float16}


def program(name):
  """Returns a norm and its gradients, compiled, and arguments for it."""
  norm, shape = NORMS[name]
  random = np.random.default_rng(0)
  x, dy = random.standard_normal((2, *shape)).astype(np.float32)
  dtype = DTYPES.get(name, jnp.float32)
  x, dy = jnp.asarray(3 + x, dtype), jnp.asarray(dy, dtype)
  channels = shape[1 if "first" in name else -1]
  given = random.standard_normal((1 if name == "rms" else 2, channels))
  given = given.astype(np.float32)

  @jax.jit
  def run(x, given, dy):
    y, pullback = jax.vjp(norm, x, *given)
    return y, *pullback(dy)

  return run, (x, given, dy)


def hashes(run, arguments):
  """Returns one hash for every result."""
  return [
    hashlib.sha256(np.asarray(value).tobytes()).hexdigest()
    for value in run(*arguments)
  ]


def main():
  """Prints the hashes of all norms, and how many threads XLA has for them."""
  assert library.load()
  results = {name: hashes(*program(name)) for name in NORMS}
  names = [
    pathlib.Path(path).read_text().strip()
    for path in glob.glob("/proc/self/task/*/comm")
  ]
  print(json.dumps([results, names.count("tf_XLAEigen")]))


class ThreadsTest(unittest.TestCase):
  def test_threads_of_the_caller(self):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      # Compiled at once, too.
      programs = dict(zip(NORMS, pool.map(program, NORMS), strict=True))
      first = pool.map(lambda name: hashes(*programs[name]), NORMS)
      expected = dict(zip(NORMS, first, strict=True))
      for name, (run, arguments) in programs.items():
        self.assertEqual(hashes(run, arguments), expected[name])
        x, given, dy = arguments
        several = [arguments, (jnp.square(x), given, dy)]
        wanted = [run(*arguments) for arguments in several]
        calls = [pool.submit(run, *several[i % 2]) for i in range(64)]
        for i, call in enumerate(calls):
          for value, exact in zip(call.result(), wanted[i % 2], strict=True):
            np.testing.assert_array_equal(value, exact)

  def test_threads_of_xla(self):
    # NPROC overrides the number of CPUs that XLA finds.
    commands = {"1": [], "8": []}
    if shutil.which("taskset") and hasattr(os, "sched_getaffinity"):
      cpu = min(os.sched_getaffinity(0))
      commands[""] = ["taskset", "-c", str(cpu)]
    processes = {}
    for threads, prefix in commands.items():
      environment = {**os.environ, "NPROC": threads}
      # As many devices would have as many threads.
      environment.pop("XLA_FLAGS", None)
      code = "from tests.native import threads_test; threads_test.main()"
      processes[threads] = subprocess.Popen(
        [*prefix, sys.executable, "-c", code],
        cwd=pathlib.Path(__file__).parents[2],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
      )
    expected = {name: hashes(*program(name)) for name in NORMS}
    for threads, process in processes.items():
      output, _ = process.communicate(timeout=120)
      self.assertEqual(process.returncode, 0)
      results, number = json.loads(output)
      self.assertEqual(results, expected)
      if sys.platform == "linux":
        self.assertEqual(number, int(threads or 1))
