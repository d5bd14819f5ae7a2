"""How the norm and its placement affect the training of a transformer.

    python -m experiments.transformer --norm=ln --placement=pre --sample=500
    python -m experiments.transformer --norm=ln,rms --placement=pre,post

A character language model on tiny_shakespeare: 4 blocks of width 128, AdamW
3e-3 with warm-up and a cosine, 2,500 batches of 16 x 64 characters. On two CPU
cores the first command takes about three minutes and ends at 1.6 nats per
character. For GPUs, `--scale=full` (6 blocks of width 384, 256 characters of
context) has the settings of nanoGPT, which reports 1.47 after three minutes on
an A100. Other tasks are `--task=mnist`, `copy` and `sort`, the last two with
padding.

Five studies test claims on character models; see below. They train each model
with several paired seeds (same initial kernels and batches):

    python -m experiments.transformer --study=warmup
    python -m experiments.transformer --study=warmup_tuned
    python -m experiments.transformer --study=depth
    python -m experiments.transformer --study=norms
    python -m experiments.transformer --study=batch_norm

Besides config.json and summary.json, the workdir has metrics.jsonl (a line per
evaluation, a number per seed), figures, checkpoints/ and tensorboard/; that of
a study has figures and parts/.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.lab import study
from experiments.lab.data.sequences import Task
from experiments.lab.errors import RefusedError
from experiments.lab.models.transformer import LanguageModel
from experiments.lab.study import Run
from experiments.lab.training import devices, fit, lanes, session
from experiments.transformer import (
  drawing,
  report,
  sampling,
  studies,
  sweep,
  training,
)
from experiments.transformer.options import FULL, QUICK, Config


def measure(config: Config, run: Run, sample: int = 0) -> dict[str, Any]:
  """Trains the models of the configuration, compares and judges.

  Args:
    config: The settings.
    run: Run that gets the results.
    sample: Number of tokens of text to print from each model.

  Returns:
    The results of every model; none for a study.
  """
  chosen = studies.selected(config)
  if chosen is not None:
    chosen.measure(config, run)
    return {"models": {}}
  task = _load(config, run)
  models = _models(config)
  for model in models.values():
    training.check(model, task)
  run.tell(
    f"{task.name}: {len(task.validation.targets):,} sequences of"
    f" {task.context} for validation. {devices.describe(run.mesh)}."
  )
  for remark in training.remarks(models.values(), task):
    run.tell(remark)
  results = {}
  with run.trainings(list(models)) as trainings:
    for name, model in models.items():
      results[name], progress = training.train(
        name,
        model,
        task,
        trainings,
        run.mesh,
      )
      _print_text(model, task, progress.stopping.best_variables, sample)
    records = trainings.records
  drawing.losses(run, config, task.name, records)
  _print_table(results)
  return {"models": results}


def _models(config: Config) -> dict[str, Config]:
  """Returns the models to compare; each has one norm and one placement."""

  def name(norm: str, placement: str) -> str:
    if len(config.placement) == 1:
      return norm
    return placement if len(config.norm) == 1 else f"{norm} {placement}"

  return {
    name(norm, placement): dataclasses.replace(
      config, norm=(norm,), placement=(placement,)
    )
    for norm in config.norm
    for placement in config.placement
  }


def _load(config: Config, run: Run) -> Task:
  task = training.load_task(config, run.data_dir)
  if config.task in ("lm", "mnist"):
    run.use_data(task.name, (task.data, task.validation, task.test))
  else:
    run.data = task.name
  return dataclasses.replace(
    task,
    validation=devices.replicate(task.validation, run.mesh),
    test=devices.replicate(task.test, run.mesh),
  )


def _print_text(config: Config, task: Task, variables: Any, count: int) -> None:
  """Prints text sampled from the first seed of a language model."""
  if not (count and task.words):
    return
  model = training.make_engine(config, task).model
  assert isinstance(model, LanguageModel), "only language tasks have words"
  first = jax.tree.map(np.asarray, lanes.one(variables, 0))
  key = jax.random.key(config.seed)
  tokens = sampling.sample(model, first, count=count, key=key)
  print(f"\nText sampled from it:\n{task.words.decode(tokens)}")


def _print_table(results: Mapping[str, Mapping[str, Any]]) -> None:
  if len(results) > 1:
    print(f"\n{report.comparison_table(results)}\n")


def show(
  config: Config, run: Run, summary: Mapping[str, Any], sample: int = 0
) -> None:
  """Prints the results of a finished run, and sampled text if `sample` > 0."""
  task = _load(config, run) if sample else None
  models = _models(config)
  for name, result in summary["models"].items():
    print(f"\n{name}")
    print("\n".join(report.result_lines(result)))
    if task is not None:
      engine = training.make_engine(models[name], task, run.mesh)
      saved = session.checkpoints_of(run.folder, name).newest()
      if saved is None:
        raise RefusedError(
          f"{run.folder} has no checkpoint of {name} any more, from which text"
          " could be sampled."
        )
      start = fit.start(engine, config.seed_numbers)
      progress = session.restored(saved, start, run.mesh)
      variables = progress.stopping.best_variables
      _print_text(models[name], task, variables, sample)
  _print_table(summary["models"])


if __name__ == "__main__":
  _SAMPLE = flags.DEFINE_integer(
    "sample",
    0,
    "Number of tokens of text to sample from the best parameters of each model;"
    " with --resume also from a finished run.",
    lower_bound=0,
  )
  __doc__ = "\n".join(
    [__doc__, *(entry.design for entry in studies.STUDIES.values())]
  )
  study.main(
    study.Study(
      "transformer",
      __doc__,
      lambda config, run: measure(config, run, _SAMPLE.value),
      Config(),
      tuple(c for entry in studies.STUDIES.values() for c in entry.claims),
      tuple(c for entry in studies.STUDIES.values() for c in entry.checks),
      quick=QUICK,
      full=FULL,
      confirm=sweep.CONFIRM,
      sensitivity=studies.varied(),
    ),
    complete=studies.complete,
    selected=studies.selected,
    show=lambda config, run, summary: show(config, run, summary, _SAMPLE.value),
    several_devices=True,
  )
