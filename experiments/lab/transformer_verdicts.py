"""Verdicts on the claims about transformers, with their figures.

The docstring of `experiments.transformer` states claims and criteria.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.lab import reporting
from experiments.lab import transformer_figures as figures
from experiments.lab import transformer_studies as studies
from experiments.lab.reporting import Verdict
from experiments.lab.sequence_tasks import Task
from experiments.lab.study import Run
from experiments.lab.transformer_options import Config
from experiments.lab.transformer_run import make_trainer

# A number per seed, None for one that diverged.
Values = Sequence[Any]

_TIMINGS = 20  # Pairs.

_XIONG = "Xiong et al., 2020, arXiv:2002.04745"
_ZHANG = "Zhang & Sennrich, 2019, arXiv:1910.07467"
_HENRY = "Henry et al., 2020, arXiv:2010.04245"
_SHEN = "Shen et al., 2020, arXiv:2003.07845"


def judge(
  run: Run,
  config: Config,
  task: Task,
  results: figures.Results,
  records: figures.Records,
) -> None:
  """Draws the figure of a study and judges its claims."""
  judges: dict[str, Callable[..., None]] = {
    "warmup": _judge_warmup,
    "norms": _judge_norms,
    "batch_norm": _judge_batch_norm,
  }
  if config.study in judges:
    judges[config.study](run, config, task, results, records)


def difference(values: Values, baseline: Values) -> reporting.Interval | None:
  """Returns the paired difference, None where a seed diverged."""
  if None in (*values, *baseline):
    return None
  return reporting.paired_difference(values, baseline)


def _shown(interval: reporting.Interval | None) -> str:
  return "unknown" if interval is None else f"{interval:+.3f}"


def _claim(
  run: Run,
  claim: str,
  interval: reporting.Interval | None,
  verdict: Callable[[reporting.Interval, float], Verdict],
  threshold: float,
  criterion: str,
  source: str,
) -> None:
  if interval is None:
    run.judge(
      claim,
      "a seed diverged",
      Verdict.UNRESOLVED,
      criterion=criterion,
      source=source,
    )
    return
  run.judge(
    claim,
    interval,
    verdict(interval, threshold),
    criterion=criterion,
    source=source,
  )


def _judge_warmup(
  run: Run,
  config: Config,
  task: Task,
  results: figures.Results,
  records: figures.Records,
) -> None:
  del task
  figures.warmup(run, config, results, records)

  def loss(placement: str, rate: float, warmup: int) -> Values:
    return results[studies.warmup_model(placement, rate, warmup)][
      "final_val_loss"
    ]

  def best(placement: str, warmup: int) -> Values:
    """Of the learning rate with the lower mean."""
    candidates = [
      loss(placement, rate, warmup) for rate in studies.WARMUP_RATES
    ]
    known = [values for values in candidates if None not in values]
    return min(known, key=lambda v: float(np.mean(v)), default=candidates[0])

  high = studies.WARMUP_RATES[-1]
  _claim(
    run,
    f"Without warm-up, at {high:g}, post-LN is worse than pre-LN",
    difference(loss("post", high, 0), loss("pre", high, 0)),
    reporting.verdict_above,
    0.5,
    "post minus pre above 0.5 nats",
    _XIONG,
  )
  for rate in reversed(studies.WARMUP_RATES):
    post, pre = (
      [loss(placement, rate, warmup) for warmup in (0, studies.WARMUP_STEPS)]
      for placement in ("post", "pre")
    )
    without, warm = map(difference, post, pre)
    shrinkage = None
    if without is not None and warm is not None:
      gaps = [np.subtract(*pair) for pair in zip(post, pre, strict=True)]
      shrinkage = reporting.paired_difference(gaps[0], gaps[1])
    _claim(
      run,
      f"Warm-up makes that difference smaller, at {rate:g}"
      f" (from {_shown(without)} to {_shown(warm)})",
      shrinkage,
      reporting.verdict_above,
      0.25,
      "by more than 0.25 nats",
      _XIONG,
    )
  _claim(
    run,
    "Pre-LN needs no warm-up, at the better learning rate of each",
    difference(best("pre", 0), best("pre", studies.WARMUP_STEPS)),
    reporting.verdict_below,
    0.05,
    "without minus with below 0.05 nats",
    _XIONG,
  )


def _judge_norms(
  run: Run,
  config: Config,
  task: Task,
  results: figures.Results,
  records: figures.Records,
) -> None:
  figures.norms(run, config, results, records)

  def loss(norm: str, rate: float) -> Values:
    return results[f"{norm} {rate:g}"]["final_val_loss"]

  for rate in studies.NORM_RATES:
    _claim(
      run,
      f"RMSNorm ends like LayerNorm, at {rate:g}",
      difference(loss("rms", rate), loss("ln", rate)),
      reporting.verdict_within,
      0.05,
      "within 0.05 nats",
      _ZHANG,
    )
  seconds = run.part("seconds-per-step", lambda: _time(config, task))
  _claim(
    run,
    "A training step with RMSNorm takes less time than one with LayerNorm",
    reporting.paired_ratio(seconds["rms"], seconds["ln"]),
    reporting.verdict_below,
    1.0,
    "ratio below 1",
    _ZHANG,
  )
  for rate in studies.NORM_RATES:
    _claim(
      run,
      f"Without a norm it ends worse than with LayerNorm, at {rate:g}",
      difference(loss("none", rate), loss("ln", rate)),
      reporting.verdict_above,
      0.05,
      "by more than 0.05 nats",
      _ZHANG,
    )
  without, with_norm = (
    results[f"ln{qk} {studies.HIGH_RATE:g}"]["largest_logit"]
    for qk in ("", " qk")
  )
  ratio = None
  if None not in (*without, *with_norm):
    ratio = reporting.paired_difference(np.log10(without), np.log10(with_norm))
  _claim(
    run,
    f"QK norm bounds the largest attention logit at {studies.HIGH_RATE:g}"
    f" ({_mean(without)} without, {_mean(with_norm)} with it)",
    ratio,
    reporting.verdict_above,
    1.0,
    "ratio above 10, its decimal logarithm above 1",
    _HENRY,
  )


def _mean(values: Values) -> str:
  if None in values:
    return "diverged"
  return f"{reporting.interval(values):.1f}"


def _time(config: Config, task: Task) -> dict[str, list[float]]:
  """Times stretches of training steps in turns; returns seconds a step."""
  runs = {}
  for norm in ("ln", "rms"):
    trainer = make_trainer(
      dataclasses.replace(config, norm=(norm,), learning_rate=1e-3), task
    )
    runs[norm] = (trainer, [trainer.init([config.seed])[0]])
  seconds: dict[str, list[float]] = {norm: [] for norm in runs}
  for repeat in range(_TIMINGS + 1):
    # The first is the compilation's. Neither always follows the other.
    for norm in sorted(runs, reverse=bool(repeat % 2)):
      trainer, held = runs[norm]
      state = held.pop()
      began = time.perf_counter()
      state, _ = jax.block_until_ready(trainer.train(state, 20))
      if repeat:
        seconds[norm].append((time.perf_counter() - began) / 20)
      held.append(state)
  return seconds


def _judge_batch_norm(
  run: Run,
  config: Config,
  task: Task,
  results: figures.Results,
  records: figures.Records,
) -> None:
  del task
  figures.batch_norm(run, config, results, records)
  gaps = {
    norm: difference(
      result["final_val_loss"], result["final_val_loss_batch_statistics"]
    )
    for norm, result in results.items()
  }
  _claim(
    run,
    "Layer norm does the same in training and in evaluation",
    gaps["ln"],
    reporting.verdict_within,
    1e-4,
    "within 1e-4 nats, which is rounding",
    _SHEN,
  )
  gap = None
  if gaps["bn"] is not None:
    gap = reporting.interval(
      np.abs(
        np.subtract(
          results["bn"]["final_val_loss"],
          results["bn"]["final_val_loss_batch_statistics"],
        )
      )
    )
  _claim(
    run,
    "Batch norm's loss with running statistics differs from that with those of"
    f" the batch (by {_shown(gaps['bn'])})",
    gap,
    reporting.verdict_above,
    0.02,
    "by more than 0.02 nats either way",
    _SHEN,
  )
  for name, which in (
    ("final_val_loss", "running"),
    ("final_val_loss_reestimated", "re-estimated"),
  ):
    _claim(
      run,
      f"With {which} statistics, batch norm ends worse than layer norm",
      difference(results["bn"][name], results["ln"]["final_val_loss"]),
      reporting.verdict_above,
      0.05,
      "by more than 0.05 nats",
      _SHEN,
    )
