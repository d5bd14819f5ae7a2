"""Trains the seeds and rates of an arm."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import tuning
from experiments.lab.study import Parts
from experiments.lab.training import lanes
from experiments.policy.agent import Agent
from experiments.policy.options import Arm, Config

RATES = tuning.half_decades(-8, -4)


@functools.cache
def _compiled(arm: Arm, config: Config) -> Any:
  """Returns the compiled training of many seeds."""
  trained = lanes.vmapped(Agent(arm, config).train, (0, None, None))
  return jax.jit(trained)


def train(
  arm: Arm,
  scales: Sequence[float],
  config: Config,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  """Trains an arm.

  Args:
    arm: How observations are normalized.
    scales: Factors of the four observations.
    config: The settings.
    rates, seeds: Learning rates, and seeds for each.

  Returns:
    `[rates, seeds]`: mean returns after training, "running", and where there
    are running statistics also "re-estimated" (on the last rollout) and "batch"
    (acting by the statistics of all environments); "return", that of the
    statistics with which the arm acts; "validation", its negative. Also
    `[rates, seeds, updates]`: "curve", the mean length of the last whole
    episode of every environment, and "divergence", KL(acting || updating) in
    nats at the start of every update.
  """
  run = _compiled(arm, config)
  numbers = jnp.asarray(seeds, jnp.uint32)
  # A rate a call, so that grids of any size share the compiled code.
  found = [
    run(numbers, jnp.float32(rate), jnp.asarray(scales, jnp.float32))
    for rate in rates
  ]
  joined = {
    name: np.stack([np.asarray(one[name], np.float64) for one in found])
    for name in found[0]
  }
  joined["return"] = joined[arm.acts]
  return joined | {"validation": -joined["return"]}
