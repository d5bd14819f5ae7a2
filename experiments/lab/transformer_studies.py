"""The claims about transformers: their settings, models, verdicts, figures.

The docstring of `experiments.transformer` states claims and criteria.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.lab import panels, plots, reporting
from experiments.lab.reporting import Verdict
from experiments.lab.sequence_tasks import Task
from experiments.lab.study import RefusedError, Run
from experiments.lab.transformer_figures import (
  PLACEMENT_COLORS,
  Records,
  line,
  series,
  steps,
)
from experiments.lab.transformer_options import Config
from experiments.lab.transformer_run import make_trainer

Results = Mapping[str, Mapping[str, Any]]

# A number per seed, None for one that diverged.
Values = Sequence[Any]

# Small enough for five seeds of many models, and as plain as the papers'.
_COMMON: Mapping[str, Any] = {
  "seeds": 5,
  "layers": 4,
  "width": 48,
  "context": 32,
  "batch_size": 16,
  "steps": 300,
  "eval_every": 100,
  "warmup_steps": 0,
  "schedule": "constant",
  "weight_decay": 0.0,
  "clip_norm": 0.0,
  "depth_init": False,
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
  "none": {},
  "warmup": {**_COMMON, "layers": 12},
  "depth": {**_COMMON, "layers": 24},
  "norms": _COMMON,
  "batch_norm": {**_COMMON, "eval_every": 50},
}
# What the models of a study differ in.
_VARIED: Mapping[str, Collection[str]] = {
  "none": (),
  "warmup": ("placement", "learning_rate", "warmup_steps"),
  "depth": ("placement",),
  "norms": ("norm", "learning_rate", "qk_norm"),
  "batch_norm": ("norm",),
}

_WARMUP_STEPS = 100
_WARMUP_RATES = (1e-3, 3e-3)
_NORM_RATES = (1e-3, 3e-3, 1e-2)
_HIGH_RATE = 3e-2
_TIMINGS = 20  # Pairs.

_XIONG = "Xiong et al., 2020, arXiv:2002.04745"
_ZHANG = "Zhang & Sennrich, 2019, arXiv:1910.07467"
_HENRY = "Henry et al., 2020, arXiv:2010.04245"
_SHEN = "Shen et al., 2020, arXiv:2003.07845"


def with_defaults(config: Config, given: Collection[str]) -> Config:
  """Returns the configuration with the defaults of its study.

  Args:
    config: Of the command line.
    given: Names of the flags that the command line has.

  Raises:
    RefusedError: The command line sets what the study varies.
  """
  varied = sorted({*_VARIED[config.study]} & {*given})
  if varied:
    raise RefusedError(
      f"--study={config.study} compares models of its own, which differ in"
      f" {', '.join(_VARIED[config.study])}; leave out --{varied[0]}."
    )
  defaults = _DEFAULTS[config.study]
  return dataclasses.replace(
    config,
    **{name: value for name, value in defaults.items() if name not in given},
  )


def models(config: Config) -> dict[str, Config]:
  """Returns the models to compare, by name; each of one norm and placement.

  Raises:
    RefusedError: A study gets several norms or placements.
  """
  if config.study == "none":
    return {
      _name(config, norm, placement): dataclasses.replace(
        config, norm=(norm,), placement=(placement,)
      )
      for norm in config.norm
      for placement in config.placement
    }
  if len(config.norm) > 1 or len(config.placement) > 1:
    raise RefusedError(
      f"--study={config.study} takes one norm and one placement."
    )

  def changed(**changes: Any) -> Config:
    return dataclasses.replace(config, **changes)

  if config.study == "warmup":
    return {
      warmup_model(placement, rate, warmup): changed(
        placement=(placement,), learning_rate=rate, warmup_steps=warmup
      )
      for placement in ("pre", "post")
      for rate in _WARMUP_RATES
      for warmup in (0, _WARMUP_STEPS)
    }
  if config.study == "norms":
    grid = {
      f"{norm} {rate:g}": changed(norm=(norm,), learning_rate=rate)
      for norm in ("ln", "rms", "none")
      for rate in _NORM_RATES
    }
    high = {
      f"ln{' qk' * qk_norm} {_HIGH_RATE:g}": changed(
        norm=("ln",), learning_rate=_HIGH_RATE, qk_norm=qk_norm
      )
      for qk_norm in (False, True)
    }
    return {**grid, **high}
  if config.study == "batch_norm":
    return {
      norm: changed(norm=(norm,), learning_rate=3e-3) for norm in ("ln", "bn")
    }
  return {
    placement: changed(placement=(placement,)) for placement in ("pre", "post")
  }


def _name(config: Config, norm: str, placement: str) -> str:
  parts = []
  if len(config.norm) > 1 or len(config.placement) == 1:
    parts.append(norm)
  if len(config.placement) > 1:
    parts.append(placement)
  return " ".join(parts)


def warmup_model(placement: str, rate: float, warmup: int) -> str:
  """Returns the name of a model of the study on warm-up."""
  return f"{placement} {rate:g} warm-up {warmup}"


def judge(
  run: Run, config: Config, task: Task, results: Results, records: Records
) -> None:
  """Draws the figure of a study and judges its claims."""
  studies: dict[str, Callable[..., None]] = {
    "warmup": _judge_warmup,
    "norms": _judge_norms,
    "batch_norm": _judge_batch_norm,
  }
  if config.study in studies:
    studies[config.study](run, config, task, results, records)


def difference(values: Values, baseline: Values) -> reporting.Interval | None:
  """Returns the paired difference, None where a seed diverged."""
  if None in (*values, *baseline):
    return None
  return reporting.paired_difference(values, baseline)


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
  run: Run, config: Config, task: Task, results: Results, records: Records
) -> None:
  del task
  _draw_warmup(run, config, results, records)

  def loss(placement: str, rate: float, warmup: int) -> Values:
    return results[warmup_model(placement, rate, warmup)]["final_val_loss"]

  def best(placement: str, warmup: int) -> Values:
    """Of the learning rate with the lower mean."""
    candidates = [loss(placement, rate, warmup) for rate in _WARMUP_RATES]
    known = [values for values in candidates if None not in values]
    return min(known, key=lambda v: float(np.mean(v)), default=candidates[0])

  high = _WARMUP_RATES[-1]
  without, warm = (
    difference(loss("post", high, warmup), loss("pre", high, warmup))
    for warmup in (0, _WARMUP_STEPS)
  )
  _claim(
    run,
    f"Without warm-up, at {high:g}, post-LN is worse than pre-LN",
    without,
    reporting.verdict_above,
    0.5,
    "post minus pre above 0.5 nats",
    _XIONG,
  )
  shrinkage = None
  if without is not None and warm is not None:
    gap_without, gap_warm = (
      np.subtract(loss("post", high, warmup), loss("pre", high, warmup))
      for warmup in (0, _WARMUP_STEPS)
    )
    shrinkage = reporting.paired_difference(gap_without, gap_warm)
  _claim(
    run,
    f"Warm-up makes that difference smaller (to {warm})",
    shrinkage,
    reporting.verdict_above,
    0.25,
    "by more than 0.25 nats",
    _XIONG,
  )
  _claim(
    run,
    "Pre-LN needs no warm-up, at the better learning rate of each",
    difference(best("pre", 0), best("pre", _WARMUP_STEPS)),
    reporting.verdict_below,
    0.05,
    "without minus with below 0.05 nats",
    _XIONG,
  )


def _draw_warmup(
  run: Run, config: Config, results: Results, records: Records
) -> None:
  with panels.drawing(
    run,
    "warmup",
    title=f"{config.layers} blocks of width {config.width}, {config.norm[0]}",
    caption=panels.seeds_caption(config.seeds),
  ) as (over_steps, over_rates):
    for placement in ("pre", "post"):
      for warmup, style, marker in ((0, "-", "o"), (_WARMUP_STEPS, "--", "s")):
        entries = records[warmup_model(placement, _WARMUP_RATES[-1], warmup)]
        label = (
          f"{placement}, {f'{warmup} steps of' if warmup else 'no'} warm-up"
        )
        options: dict[str, Any] = {"style": style, "marker": marker}
        color = PLACEMENT_COLORS[placement]
        line(
          over_steps,
          steps(entries),
          series(entries, "val_loss"),
          color,
          label,
          **options,
        )
        final = [
          results[warmup_model(placement, rate, warmup)]["final_val_loss"]
          for rate in _WARMUP_RATES
        ]
        line(
          over_rates,
          _WARMUP_RATES,
          np.array(final, np.float64).T,
          color,
          label,
          **options,
        )
    panels.label(
      over_steps,
      f"Learning rate {_WARMUP_RATES[-1]:g}",
      "Step",
      "Validation loss (nats)",
    )
    panels.label(
      over_rates,
      f"After {config.steps} steps",
      "Learning rate",
      "Validation loss (nats)",
      log_x=True,
    )


def _judge_norms(
  run: Run, config: Config, task: Task, results: Results, records: Records
) -> None:
  _draw_norms(run, config, results, records)

  def loss(norm: str, rate: float) -> Values:
    return results[f"{norm} {rate:g}"]["final_val_loss"]

  for rate in _NORM_RATES:
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
  for rate in _NORM_RATES:
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
    results[f"ln{qk} {_HIGH_RATE:g}"]["largest_logit"] for qk in ("", " qk")
  )
  ratio = None
  if None not in (*without, *with_norm):
    ratio = reporting.paired_difference(np.log10(without), np.log10(with_norm))
  _claim(
    run,
    f"QK norm bounds the largest attention logit at {_HIGH_RATE:g}"
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


def _draw_norms(
  run: Run, config: Config, results: Results, records: Records
) -> None:
  with panels.drawing(
    run,
    "norms",
    title=f"{config.layers} blocks of width {config.width}, pre-LN, no warm-up",
    caption=panels.seeds_caption(config.seeds),
  ) as (losses, logits):
    for norm, marker in (("ln", "o"), ("rms", "s"), ("none", "D")):
      final = [
        results[f"{norm} {rate:g}"]["final_val_loss"] for rate in _NORM_RATES
      ]
      line(
        losses,
        _NORM_RATES,
        np.array(final, np.float64).T,
        plots.norm_color(norm),
        norm,
        marker=marker,
      )
    for qk, style in (("", "-"), (" qk", "--")):
      entries = records[f"ln{qk} {_HIGH_RATE:g}"]
      line(
        logits,
        steps(entries),
        series(entries, "largest_logit"),
        plots.norm_color("ln"),
        "ln with QK norm" if qk else "ln",
        style=style,
      )
    panels.label(
      losses,
      f"After {config.steps} steps",
      "Learning rate",
      "Validation loss (nats)",
      log_x=True,
    )
    panels.label(
      logits,
      f"Learning rate {_HIGH_RATE:g}",
      "Step",
      "Largest attention logit",
      log_y=True,
    )


def _judge_batch_norm(
  run: Run, config: Config, task: Task, results: Results, records: Records
) -> None:
  del task
  _draw_batch_norm(run, config, results, records)
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
    # No margin is small enough for what is exact.
    lambda interval, _: (
      Verdict.CONFIRMED
      if interval.mean == 0 and not interval.half_width > 0
      else Verdict.REFUTED
    ),
    0.0,
    "the losses are equal",
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
    f" the batch (by {gaps['bn']:+})",
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


def _draw_batch_norm(
  run: Run, config: Config, results: Results, records: Records
) -> None:
  with panels.drawing(
    run,
    "batch_norm",
    title=f"{config.layers} blocks of width {config.width}, pre-LN",
    caption=panels.seeds_caption(config.seeds),
  ) as (losses, gaps):
    for norm, marker in (("ln", "o"), ("bn", "s")):
      entries, color = records[norm], plots.norm_color(norm)
      running = series(entries, "val_loss")
      batch = series(entries, "val_loss_batch_statistics")
      options: dict[str, Any] = {"marker": marker}
      name = f"{norm}, running statistics" if norm == "bn" else norm
      line(losses, steps(entries), running, color, name, **options)
      if norm == "bn":
        line(
          losses,
          steps(entries),
          batch,
          color,
          "bn, statistics of each batch",
          style="--",
          **options,
        )
      line(gaps, steps(entries), running - batch, color, name, **options)
    final = results["bn"]["final_val_loss_reestimated"]
    if None not in final:
      interval = reporting.interval(final)
      losses.errorbar(
        config.steps,
        interval.mean,
        np.nan_to_num(interval.half_width),
        color=plots.norm_color("bn"),
        marker="*",
        markersize=12,
        linestyle="none",
        label="bn, re-estimated statistics",
      )
    panels.label(losses, "Validation loss", "Step", "Cross-entropy (nats)")
    panels.label(
      gaps,
      "Running minus batch statistics",
      "Step",
      "Difference of validation loss (nats)",
    )
