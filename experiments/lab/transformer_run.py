"""Training of one transformer of the study, from its last checkpoint on."""

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.lab import (
  checkpoints,
  devices,
  reporting,
  sampling,
  sequence_tasks,
  sequence_training,
)
from experiments.lab import transformer_report as report
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


def make_trainer(
  config: Config, task: Task, mesh: Mesh | None = None
) -> SequenceTrainer:
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
    "kernel_init": config.kernel_init,
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
    mesh=mesh,
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
  mesh: Mesh | None = None,
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
    mesh: Devices that share every batch; None for one.

  Returns:
    The results of the seeds, made of what JSON knows.
  """
  trainer = make_trainer(config, task, mesh)
  task = trainer.task
  seeds = config.seed_numbers
  state, stopping = trainer.init(seeds)
  parameters = sum(leaf[0].size for leaf in jax.tree.leaves(state.params))
  print(f"\n{name}, {report.seeds_text(config)}, {parameters:,} parameters")
  step = 0
  if (restored := saved.restore((state, stopping))) is not None:
    step = restored[0]
    state, stopping = devices.replicate(restored[1], mesh)
    print(f"Resuming after step {step}.")
  both_modes = both_modes or bool(state.batch_stats)
  print(report.header(task))
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
        **report.means("train", stretch.sums),
        **report.means("val", validation),
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
          key: report.numbers(np.where(running, values, np.nan))
          for key, values in metrics.items()
        },
        "seconds": round(seconds, 4),
        "tokens_per_second": (
          steps * config.batch_size * task.context * len(seeds) / seconds
        ),
      }
      records.append(record)
      saved.save(step, (state, stopping), records)
      log.append(record)
      bar.update(steps)
      bar.write(report.line(record, task))
      newly = np.asarray(stopping.stopped) & running
      for index in np.flatnonzero(newly):
        bar.write(
          f"Seed {seeds[int(index)]} DIVERGED before step {step}: its loss is"
          " not finite. A smaller --learning_rate or more --warmup_steps may"
          " help."
        )

  result = _result(trainer, state, stopping, records, config)
  print("\n".join(report.result_lines(result)))
  if sample and task.words and isinstance(trainer.model, LanguageModel):
    first = jax.tree.map(
      lambda leaf: np.asarray(leaf[0]),
      (stopping.best_params, stopping.best_batch_stats),
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
    "val_loss": report.numbers(stopping.best_loss),
    "best_step": np.asarray(stopping.best_epoch).tolist(),
    "final_val_loss": last["val_loss"],
    "final_train_loss": last["train_loss"],
    "test_loss": report.numbers(test["loss"]),
    "test_accuracy": report.numbers(test["accuracy"]),
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
    val_bits, test_bits = report.bits_per_character(task)
    result["val_bits_per_character"] = report.scaled(
      result["val_loss"], val_bits
    )
    result["test_bits_per_character"] = report.scaled(
      result["test_loss"], test_bits
    )
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
    result["final_val_loss_reestimated"] = report.numbers(sums.means()["loss"])
  return result
