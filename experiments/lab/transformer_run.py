"""Training of one transformer of the study, from its last checkpoint on."""

import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import (
  checkpoints,
  reporting,
  sampling,
  sequence_tasks,
  sequence_training,
)
from experiments.lab.sequence_tasks import Task
from experiments.lab.sequence_training import SequenceTrainer
from experiments.lab.study import RefusedError
from experiments.lab.transformer import Classifier, LanguageModel
from experiments.lab.transformer_options import Config
from normjax.linen import make_norm

Record = dict[str, Any]

# A position's groups of channels: by default groups would average over time.
# The running statistics of 300 steps would still be a twentieth the initial
# ones with the usual momentum of 0.99.
NORM_OPTIONS: Mapping[str, Mapping[str, Any]] = {
  "gn": {"num_groups": 8, "reduction_axes": -1},
  "bn": {"momentum": 0.9},
}

_REESTIMATED_OVER = 50  # Batches of training data.


def load_task(config: Config, data_dir: str | None) -> Task:
  """Returns the task of a configuration.

  Raises:
    RefusedError: There is no such data set, or it is too short.
    data.UnavailableError: The data are not to be had.
  """
  try:
    return sequence_tasks.load(
      config.task,
      dataset=config.dataset,
      data_dir=data_dir,
      context=config.context,
      unit=config.tokens,
    )
  except ValueError as error:
    raise RefusedError(str(error)) from error


def make_trainer(config: Config, task: Task) -> SequenceTrainer:
  """Returns the trainer of a configuration with one norm and one placement."""
  (norm,), (placement,) = config.norm, config.placement
  options: dict[str, Any] = {
    "norm": functools.partial(make_norm, norm, **NORM_OPTIONS.get(norm, {})),
    "placement": placement,
    "layers": config.layers,
    "width": config.width,
    "heads": config.heads,
    "context": task.context,
    "positions": config.positions,
    "qk_norm": config.qk_norm,
    "dropout": config.dropout,
    "depth_init": config.depth_init,
    "dtype": jnp.dtype(config.dtype),
  }
  return SequenceTrainer(
    LanguageModel(vocabulary=task.classes, **options)
    if task.causal
    else Classifier(num_classes=task.classes, **options),
    sequence_training.make_optimizer(
      learning_rate=config.learning_rate,
      warmup_steps=config.warmup_steps,
      schedule=config.schedule,
      steps=config.steps,
      weight_decay=config.weight_decay,
      clip_norm=config.clip_norm,
    ),
    task,
    batch_size=config.batch_size,
  )


def check(config: Config, task: Task) -> None:
  """Refuses what model, norm or task refuse, before anything is computed."""
  trainer = make_trainer(config, task)
  (norm,) = config.norm
  try:
    if task.causal and config.placement != ("none",):
      _check_causal(trainer.model)
    state = trainer.check()
    if state.batch_stats:
      _without_memory(trainer.model).norm(train=True)
  except (TypeError, ValueError) as error:
    raise RefusedError(
      f"--norm={norm} cannot be trained with --task={config.task},"
      f" --width={config.width}, --heads={config.heads},"
      f" --batch_size={config.batch_size}: {error}"
    ) from error


def _check_causal(model: Any) -> None:
  """Raises ValueError where the norm of a position depends on later ones."""
  norm = model.norm(train=False, dtype=model.dtype)
  x = jax.random.normal(jax.random.key(0), (1, 4, model.width))
  y, variables = norm.init_with_output(jax.random.key(1), x)
  other = norm.apply(variables, x.at[:, -1].add(1.0))
  if not np.array_equal(y[:, :-1], other[:, :-1]):
    raise ValueError(
      "it averages over time, so that a position would see later ones, which"
      " it is to predict. Classifiers may: --task=mnist."
    )


def _without_memory(model: Any) -> Any:
  """Returns the model whose running statistics become those of the batch."""
  norm = functools.partial(model.norm, momentum=0.0)
  return model.clone(norm=norm, dropout=0.0)


def train(
  name: str,
  config: Config,
  task: Task,
  saved: checkpoints.Checkpoints,
  records: list[Record],
  log: reporting.MetricsLog,
  *,
  both_modes: bool = False,
  sample: int = 0,
) -> dict[str, Any]:
  """Trains a model, from its last checkpoint on, and tests it.

  Args:
    name: Of the model, among those that are compared.
    config: With one norm and one placement.
    task: What to train on.
    saved: The checkpoints of this model.
    records: Of the last checkpoint; new ones are appended.
    log: Gets the new records too.
    both_modes: Whether to evaluate with batch statistics too, even where the
      norm keeps no others.
    sample: Tokens of text to print, from the best parameters.

  Returns:
    The results of the seeds, made of what JSON knows.
  """
  trainer = make_trainer(config, task)
  seeds = config.seed_numbers
  state, stopping = trainer.init(seeds)
  parameters = sum(leaf[0].size for leaf in jax.tree.leaves(state.params))
  print(f"\n{name}, {seeds_text(config)}, {parameters:,} parameters")
  step = 0
  if (restored := saved.restore((state, stopping))) is not None:
    step, (state, stopping) = restored
    print(f"Resuming after step {step}.")
  both_modes = both_modes or bool(state.batch_stats)
  print(_header(task))
  with reporting.progress(
    total=config.steps, description=name, unit="step"
  ) as bar:
    bar.update(step)
    while step < config.steps and not np.all(stopping.stopped):
      steps = min(config.eval_every, config.steps - step)
      running = ~np.asarray(stopping.stopped)
      began = time.perf_counter()
      state, stretch = jax.block_until_ready(trainer.train(state, steps))
      seconds = time.perf_counter() - began
      step += steps
      validation = trainer.evaluate(
        state.params, state.batch_stats, task.validation
      )
      stopping = trainer.update_stopping(
        stopping,
        (state.params, state.batch_stats),
        stretch.sums,
        validation,
        step,
      )
      metrics = {
        **_means("train", stretch.sums),
        **_means("val", validation),
        "grad_norm_first": np.asarray(stretch.first_grad_norm) / steps,
        "grad_norm_last": np.asarray(stretch.last_grad_norm) / steps,
        "largest_logit": np.asarray(
          trainer.largest_logit(state.params, state.batch_stats)
        ),
      }
      if both_modes:
        sums = trainer.evaluate(
          state.params, state.batch_stats, task.validation, train=True
        )
        metrics["val_loss_batch_statistics"] = sums.means()["loss"]
      record: Record = {
        "model": name,
        "step": step,
        **{
          key: _numbers(np.where(running, values, np.nan))
          for key, values in metrics.items()
        },
        "seconds": round(seconds, 4),
        "tokens_per_second": round(
          steps * config.batch_size * task.context * len(seeds) / seconds
        ),
      }
      records.append(record)
      saved.save(step, (state, stopping), records)
      log.append(record)
      bar.update(steps)
      bar.write(_line(record, task))
      newly = np.asarray(stopping.stopped) & running
      for index in np.flatnonzero(newly):
        bar.write(
          f"Seed {seeds[int(index)]} DIVERGED before step {step}: its loss is"
          " not finite. A smaller --learning_rate or more --warmup_steps may"
          " help."
        )

  result = _result(trainer, state, stopping, records, config)
  print("\n".join(result_lines(result)))
  if sample and task.words and isinstance(trainer.model, LanguageModel):
    first = jax.tree.map(
      lambda leaf: leaf[0], (stopping.best_params, stopping.best_batch_stats)
    )
    tokens = sampling.sample(
      trainer.model, *first, count=sample, key=jax.random.key(config.seed)
    )
    print(f"\nText sampled from it:\n{task.words.decode(tokens)}")
  return result


def _result(
  trainer: SequenceTrainer,
  state: Any,
  stopping: Any,
  records: list[Record],
  config: Config,
) -> dict[str, Any]:
  task = trainer.task
  params, batch_stats = stopping.best_params, stopping.best_batch_stats
  test = trainer.evaluate(params, batch_stats, task.test).means()
  # The first stretch includes the compilation.
  speeds = [record["tokens_per_second"] for record in records]
  speed = float(np.median(speeds[1:] or speeds))
  last = records[-1]
  result = {
    "val_loss": _numbers(stopping.best_loss),
    "best_step": np.asarray(stopping.best_epoch).tolist(),
    "final_val_loss": last["val_loss"],
    "final_train_loss": last["train_loss"],
    "test_loss": _numbers(test["loss"]),
    "test_accuracy": _numbers(test["accuracy"]),
    "largest_logit": last["largest_logit"],
    "grad_norm_first": last["grad_norm_first"],
    "grad_norm_last": last["grad_norm_last"],
    "diverged": np.asarray(stopping.diverged).tolist(),
    "steps": last["step"],
    "tokens_per_second": speed,
    "seconds_per_step": (
      config.batch_size * task.context * config.seeds / speed
    ),
  }
  if task.words is not None:
    val_bits, test_bits = bits_per_character(task)
    result["val_bits_per_character"] = _scaled(result["val_loss"], val_bits)
    result["test_bits_per_character"] = _scaled(result["test_loss"], test_bits)
  if "val_loss_batch_statistics" in last:
    result["final_val_loss_batch_statistics"] = last[
      "val_loss_batch_statistics"
    ]
  if state.batch_stats:
    # Of the last parameters, as the two losses that it is compared with.
    reestimated = trainer.reestimate_batch_stats(
      _without_memory(trainer.model),
      state.params,
      state.batch_stats,
      batches=_REESTIMATED_OVER,
    )
    sums = trainer.evaluate(state.params, reestimated, task.validation)
    result["final_val_loss_reestimated"] = _numbers(sums.means()["loss"])
  return result


def result_lines(result: Mapping[str, Any]) -> list[str]:
  """Returns the lines on the results of a model."""
  steps = ", ".join(map(str, result["best_step"]))
  lines = [
    f"Best parameters: after step {steps}, validation loss"
    f" {_interval(result['val_loss'])} nats"
    + _bits(result, "val_bits_per_character"),
    f"Test loss: {_interval(result['test_loss'])} nats"
    + _bits(result, "test_bits_per_character")
    + f", accuracy {_interval(_scaled(result['test_accuracy'], 100))} %",
  ]
  if "final_val_loss_reestimated" in result:
    lines.append(
      "Validation loss of the last parameters: with running statistics"
      f" {_interval(result['final_val_loss'])}, re-estimated"
      f" {_interval(result['final_val_loss_reestimated'])}, of each batch"
      f" {_interval(result['final_val_loss_batch_statistics'])}"
    )
  if any(result["diverged"]):
    lines.append(
      f"{sum(result['diverged'])} of {len(result['diverged'])} seeds diverged;"
      " they count with their best parameters before that."
    )
  return lines


def comparison_table(results: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns a table of models, each with its difference to the first."""
  first, baseline = next(iter(results.items()))
  rows = []
  for name, result in results.items():
    losses = result["val_loss"], baseline["val_loss"]
    known = None not in (*losses[0], *losses[1])
    rows.append(
      [
        name,
        _interval(losses[0]),
        f"{reporting.paired_difference(*losses):+.4f}"
        if known and name != first
        else None,
        _interval(result["test_loss"]),
        _interval(_scaled(result["test_accuracy"], 100)),
        f"{result['tokens_per_second']:.0f}",
      ]
    )
  return reporting.table(
    rows,
    [
      "model",
      "validation loss",
      f"minus {first}",
      "test loss",
      "test accuracy (%)",
      "tokens/s",
    ],
  )


def bits_per_character(task: Task) -> tuple[float, float]:
  """Returns the bits per character of one nat per token.

  Args:
    task: With words.

  Returns:
    For the validation and the test split.
  """
  assert task.words is not None
  _, validation, test = task.words.characters
  return (
    len(task.words.validation) / validation / math.log(2),
    len(task.words.test) / test / math.log(2),
  )


def seeds_text(config: Config) -> str:
  last = config.seed + config.seeds - 1
  if config.seeds == 1:
    return f"seed {last}"
  return f"seeds {config.seed} to {last}"


def _means(split: str, sums: Any) -> dict[str, np.ndarray]:
  return {f"{split}_{name}": mean for name, mean in sums.means().items()}


def _numbers(values: Any) -> list[float | None]:
  """Returns a number per seed, None where it is not finite, as in JSON."""
  return [
    value if math.isfinite(value) else None
    for value in np.asarray(values, np.float64).tolist()
  ]


def _scaled(values: list[float | None], factor: float) -> list[float | None]:
  return [None if value is None else factor * value for value in values]


def _interval(values: list[float | None]) -> str:
  known = [value for value in values if value is not None]
  if len(known) < len(values):
    return "diverged"
  return f"{reporting.interval(known):.4f}"


def _bits(result: Mapping[str, Any], name: str) -> str:
  if name not in result:
    return ""
  return f" ({_interval(result[name])} bits per character)"


def _header(task: Task) -> str:
  bits = "bits/char  " if task.words is not None else ""
  return (
    f"  step  train loss  val loss  {bits}val accuracy  grad norm first"
    "    last  tokens/s"
  )


def _line(record: Record, task: Task) -> str:
  """Means over the seeds that were still running."""

  def mean(name: str) -> float:
    known = [value for value in record[name] if value is not None]
    return float(np.mean(known)) if known else math.nan

  bits = ""
  if task.words is not None:
    bits = f"  {bits_per_character(task)[0] * mean('val_loss'):9.3f}"
  return (
    f"{record['step']:6d}  {mean('train_loss'):10.4f}"
    f"  {mean('val_loss'):8.4f}{bits}  {100 * mean('val_accuracy'):10.2f} %"
    f"  {mean('grad_norm_first'):15.3f}  {mean('grad_norm_last'):6.3f}"
    f"  {record['tokens_per_second']:8,}"
  )
