"""Estimates of simulated studies, for tests of how often they are wrong."""

import functools
from unittest import mock

import numpy as np

from experiments.lab import statistics
from experiments.lab.analyses import Difference, Estimate, Level, Ratio

COUNT = 2000
# Three standard errors of a share of 5%, or of 95%: 1.5%.
ERROR = 3 * (0.05 * 0.95 / COUNT) ** 0.5

# Fewer, so that thousands of samples take seconds. As with 19,999, the 2.5%
# quantiles are order statistics, so the level is the same.
few_resamples = mock.patch.object(statistics, "RESAMPLES", 999)


def _level(rng: np.random.Generator, seeds: int) -> Estimate:
  return Level().estimate(rng.normal(size=seeds))


def _difference(rng: np.random.Generator, seeds: int) -> Estimate:
  shared, first, second = rng.normal(size=(3, seeds))
  return Difference().estimate(shared + first, shared + second)


def _ratio(rng: np.random.Generator, seeds: int) -> Estimate:
  shared, first, second = rng.normal(size=(3, seeds))
  return Ratio().estimate(np.exp(shared + first), np.exp(shared + second))


def _skewed(rng: np.random.Generator, seeds: int) -> Estimate:
  return Level().estimate(rng.exponential(size=seeds) - 1)


_DRAW = {
  "level": _level,
  "difference": _difference,
  "ratio": _ratio,
  "skewed": _skewed,
}


def truth(kind: str) -> float:
  """Returns the true number: nothing has an effect."""
  return 1.0 if kind == "ratio" else 0.0


@functools.cache
@few_resamples
def estimates(kind: str, seeds: int) -> list[Estimate]:
  """Returns `COUNT` estimates of samples of a kind; its true effect is none."""
  rng = np.random.default_rng(seeds)
  return [_DRAW[kind](rng, seeds) for _ in range(COUNT)]
