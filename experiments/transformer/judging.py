"""Judges the claims about transformers, and draws their figures."""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.lab.data.sequences import Task
from experiments.lab.statistics import (
  Bounds,
  Interval,
  interval,
  paired_difference,
  paired_ratio,
  shown,
)
from experiments.lab.study import Run
from experiments.transformer import arms, drawing
from experiments.transformer.claims import (
  BN_DIFFERS,
  BN_IS_WORSE,
  LN_IS_SAME,
  NONE_IS_WORSE,
  POST_IS_WORSE,
  PRE_NEEDS_NONE,
  QK_BOUNDS,
  RMS_IS_FASTER,
  RMS_IS_LN,
  WARMUP_HELPS,
)
from experiments.transformer.drawing import Records, Results
from experiments.transformer.options import Config
from experiments.transformer.training import make_engine

# One number per seed, None for a seed that diverged.
Values = Sequence[Any]

_TIMINGS = 20  # Pairs of timings.


def judge(
  run: Run, config: Config, task: Task, results: Results, records: Records
) -> None:
  """Draws the figure of a study and judges its claims."""
  # A lower bound for the loss of a diverged seed.
  guessing = math.log(task.classes)
  if config.study == "warmup":
    drawing.warmup(run, config, results, records)
    _judge_warmup(run, results, guessing)
  if config.study == "norms":
    drawing.norms(run, config, results, records)
    _judge_norms(run, config, task, results, guessing)
  if config.study == "batch_norm":
    drawing.batch_norm(run, config, results, records)
    _judge_batch_norm(run, results, guessing)


def _judge_warmup(run: Run, results: Results, guessing: float) -> None:
  def loss(placement: str, rate: float, warmup: int) -> Values:
    name = arms.warmup_model(placement, rate, warmup)
    return results[name]["final_val_loss"]

  def difference(values: Values, baseline: Values) -> Interval | Bounds:
    return paired_difference(values, baseline, diverged_at_least=guessing)

  def best(placement: str, warmup: int) -> Values:
    """Returns the losses at the learning rate with the lower mean."""
    losses = [loss(placement, rate, warmup) for rate in arms.WARMUP_RATES]
    return min(losses, key=lambda v: float(np.mean(_bounded(v, guessing))))

  high = arms.WARMUP_RATES[-1]
  run.judge(
    POST_IS_WORSE,
    difference(loss("post", high, 0), loss("pre", high, 0)),
    rate=high,
  )
  for rate in reversed(arms.WARMUP_RATES):
    gaps, shrinkage = [], []
    pre_diverged = False
    for warmup in (0, arms.WARMUP_STEPS):
      post, pre = (loss(place, rate, warmup) for place in ("post", "pre"))
      gaps.append(f"{difference(post, pre):+.3f}")
      shrinkage.append(np.array(post, float) - np.array(pre, float))
      pre_diverged |= None in pre
    run.judge(
      WARMUP_HELPS,
      # Where post-LN alone diverged, it is infinitely worse.
      paired_difference(
        shrinkage[0],
        shrinkage[1],
        diverged_at_least=None if pre_diverged else math.inf,
      ),
      rate=rate,
      note=f"from {gaps[0]} to {gaps[1]}",
    )
  run.judge(
    PRE_NEEDS_NONE,
    difference(best("pre", 0), best("pre", arms.WARMUP_STEPS)),
  )


def _bounded(values: Values, guessing: float) -> np.ndarray:
  return np.nan_to_num(np.array(values, np.float64), nan=guessing)


def _judge_norms(
  run: Run, config: Config, task: Task, results: Results, guessing: float
) -> None:
  def minus_ln(norm: str, rate: float) -> Interval | Bounds:
    losses = (results[f"{n} {rate:g}"]["final_val_loss"] for n in (norm, "ln"))
    return paired_difference(*losses, diverged_at_least=guessing)

  for rate in arms.NORM_RATES:
    run.judge(RMS_IS_LN, minus_ln("rms", rate), rate=rate)
  seconds = run.part("seconds-per-step", lambda: _time(config, task))
  run.judge(RMS_IS_FASTER, paired_ratio(seconds["rms"], seconds["ln"]))
  for rate in arms.NORM_RATES:
    run.judge(NONE_IS_WORSE, minus_ln("none", rate), rate=rate)
  without, with_norm = (
    np.array(results[f"ln{qk} {arms.HIGH_RATE:g}"]["largest_logit"], float)
    for qk in ("", " qk")
  )
  run.judge(
    QK_BOUNDS,
    paired_difference(
      np.log10(without), np.log10(with_norm), diverged_at_least=math.inf
    ),
    rate=arms.HIGH_RATE,
    note=f"{shown(without, '.1f')} without, {shown(with_norm, '.1f')} with it",
  )


def _time(config: Config, task: Task) -> dict[str, list[float]]:
  """Times stretches of training steps in turns; returns seconds per step."""
  runs = {}
  for norm in ("ln", "rms"):
    engine = make_engine(
      dataclasses.replace(config, norm=(norm,), learning_rate=1e-3), task
    )
    runs[norm] = (engine, [engine.init([config.seed])])
  seconds: dict[str, list[float]] = {norm: [] for norm in runs}
  for repeat in range(_TIMINGS + 1):
    # The first pair compiles. The order of the two norms alternates.
    for norm in sorted(runs, reverse=bool(repeat % 2)):
      engine, held = runs[norm]
      state = held.pop()
      began = time.perf_counter()
      state, _ = jax.block_until_ready(engine.train(state, 20))
      if repeat:
        seconds[norm].append((time.perf_counter() - began) / 20)
      held.append(state)
  return seconds


def _judge_batch_norm(run: Run, results: Results, guessing: float) -> None:
  def difference(values: Values, baseline: Values) -> Interval | Bounds:
    return paired_difference(values, baseline, diverged_at_least=guessing)

  ln, bn = (
    (result["final_val_loss"], result["final_val_loss_batch_statistics"])
    for result in (results["ln"], results["bn"])
  )
  run.judge(LN_IS_SAME, difference(*ln))
  absolute: Interval | Bounds = difference(*bn)
  if isinstance(absolute, Interval):
    absolute = interval(np.abs(np.subtract(*bn)))
  run.judge(BN_DIFFERS, absolute, note=f"with its sign {difference(*bn):+.3f}")
  for name, which in (
    ("final_val_loss", "running"),
    ("final_val_loss_reestimated", "re-estimated"),
  ):
    run.judge(BN_IS_WORSE, difference(results["bn"][name], ln[0]), which=which)
