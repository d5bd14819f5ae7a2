"""Trains one transformer of the study, from its last checkpoint on."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.lab.data import sequences
from experiments.lab.data.batch import Batch
from experiments.lab.data.sequences import Task
from experiments.lab.errors import RefusedError
from experiments.lab.models.norms import (
  error_text,
  norm_factory,
  without_dropout,
)
from experiments.lab.models.transformer import (
  Classifier,
  LanguageModel,
  block_name,
)
from experiments.lab.training import devices, hyperparams, optimizers
from experiments.lab.training.batches import Drawn
from experiments.lab.training.engine import Engine
from experiments.lab.training.fit import Progress, Schedule
from experiments.lab.training.losses import cross_entropy
from experiments.lab.training.session import Session
from experiments.lab.training.step import TrainState, Update
from experiments.transformer import report
from experiments.transformer.options import Config

PyTree = Any

# Groups of channels per position; by default groups would average over time.
_PER_POSITION: Mapping[str, Mapping[str, Any]] = {"gn": {"reduction_axes": -1}}

_TOKENS_AT_ONCE = 8192  # Approximate number of tokens in an evaluation batch.


def load_task(config: Config, data_dir: str | None) -> Task:
  """Returns the task of a configuration, validation and test set shuffled.

  A batch of windows in the order of the text would share a topic, and have
  other statistics than a training batch, whose windows are from anywhere.

  Raises:
    RefusedError: The data set does not exist, is too short or not available.
  """
  task = sequences.load(
    config.task,
    dataset=config.dataset,
    data_dir=data_dir,
    context=config.context,
    unit=config.tokens,
  )
  return dataclasses.replace(
    task, validation=_shuffled(task.validation), test=_shuffled(task.test)
  )


def _shuffled(examples: Batch) -> Batch:
  order = np.random.default_rng(0).permutation(len(examples.targets))
  return jax.tree.map(lambda array: array[order], examples)


def make_engine(
  config: Config, task: Task, mesh: Mesh | None = None, *, swept: bool = False
) -> Engine:
  """Returns the engine that trains a model with one norm and one placement.

  Args:
    config: Configuration of the model and its training.
    task: Task to train on.
    mesh: Devices that share every batch; None for one device.
    swept: Whether every lane has its own learning rate.
  """
  (norm,), (placement,) = config.norm, config.placement
  options: dict[str, Any] = {
    "norm": norm_factory(norm, **_PER_POSITION.get(norm, {})),
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

  def adamw(learning_rate: float) -> optax.GradientTransformation:
    return optimizers.adamw(
      learning_rate=learning_rate,
      warmup_steps=config.warmup_steps,
      schedule=config.schedule,
      steps=config.steps,
      weight_decay=config.weight_decay,
      clip_norm=config.clip_norm,
    )

  optimizer = hyperparams.swept(adamw) if swept else adamw(config.learning_rate)
  inputs = task.validation.inputs
  return Engine(
    LanguageModel(vocabulary=task.classes, **options)
    if task.causal
    else Classifier(num_classes=task.classes, **options),
    Update(cross_entropy(), optimizer),
    Drawn(task.draw, devices.share(task.data, mesh), config.batch_size),
    sample=np.zeros((1, *inputs.shape[1:]), inputs.dtype),
    watch=functools.partial(_gradient_norms, last=config.layers - 1),
    eval_size=max(1, _TOKENS_AT_ONCE // task.context),
    gain=config.gain,
    mesh=mesh,
  )


def _gradient_norms(
  before: TrainState, after: TrainState, gradients: PyTree, *, last: int
) -> dict[str, jax.Array]:
  """Returns the norm of the unclipped gradient in the first and last block."""
  del before, after

  def norm(layer: int) -> jax.Array:
    leaves = jax.tree.leaves(gradients[block_name(layer)])
    squares = [jnp.sum(jnp.square(leaf)) for leaf in leaves]
    return jnp.sqrt(jnp.sum(jnp.stack(squares)))

  return {"grad_norm_first": norm(0), "grad_norm_last": norm(last)}


def check(config: Config, task: Task) -> None:
  """Raises the errors of model, norm and task before anything is computed."""
  (norm,) = config.norm
  try:
    engine = make_engine(config, task)
    engine.check(config.seeds)
    if _predicts_with_norms(config, task) and _sees_later(
      engine.model, train=False
    ):
      raise ValueError(
        "it averages over time, so a position would see later ones, which it"
        " must predict. Only classifiers may do this: --task=mnist."
      )
  except RefusedError:
    raise
  except (TypeError, ValueError) as error:
    raise RefusedError(
      f"--norm={norm} cannot be trained with --task={config.task},"
      f" --width={config.width}, --heads={config.heads},"
      f" --batch_size={config.batch_size}: {error_text(error, '--width')}"
    ) from error


def remarks(models: Iterable[Config], task: Task) -> list[str]:
  """Returns what to know of models that see later positions in training."""
  leaky = [
    model.norm[0]
    for model in models
    if _predicts_with_norms(model, task)
    and _sees_later(make_engine(model, task).model, train=True)
  ]
  return [
    f"In training, {norm} sees later positions through its statistics, so its"
    " training loss is not that of a causal model; in evaluation, with running"
    " statistics, it is causal."
    for norm in dict.fromkeys(leaky)
  ]


def _predicts_with_norms(config: Config, task: Task) -> bool:
  return task.causal and config.placement != ("none",)


def _sees_later(model: Any, *, train: bool) -> bool:
  """Returns whether the norm at a position depends on later positions."""
  norm = model.norm(train=train, dtype=model.dtype)
  x = jax.random.normal(jax.random.key(0), (1, 4, model.width))
  variables = norm.init(jax.random.key(1), x)

  def before_last(x: jax.Array) -> jax.Array:
    y, _ = norm.apply(variables, x, mutable=["batch_stats"])
    return y[:, :-1]

  return not np.array_equal(before_last(x), before_last(x.at[:, -1].add(1.0)))


def train(
  name: str,
  config: Config,
  task: Task,
  trainings: Session,
  mesh: Mesh | None = None,
) -> tuple[dict[str, Any], Progress]:
  """Trains a model, from its last checkpoint on, and tests it.

  Args:
    name: Name of the model.
    config: Configuration with one norm and one placement.
    task: Task to train on, with validation and test set on the device.
    trainings: Session with the checkpoints.
    mesh: Devices that share every batch; None for one device.

  Returns:
    The results of the seeds as JSON values, and the progress.
  """
  engine = make_engine(config, task, mesh)
  progress = trainings.fit(
    name,
    engine,
    seeds=config.seed_numbers,
    validation=task.validation,
    schedule=Schedule(config.eval_every, config.steps),
    style=report.style(config, task),
    measure=_more_metrics(engine, config, task),
  )
  result = report.result(
    engine, progress, trainings.records[name], config, task
  )
  print("\n".join(report.result_lines(result)))
  return result, progress


def _more_metrics(
  engine: Engine, config: Config, task: Task
) -> Callable[[TrainState], dict[str, Any]]:
  """Returns the function for further metrics, each `[seeds]`."""
  largest = largest_logit(engine, task)

  def measure(state: TrainState) -> dict[str, Any]:
    found: dict[str, Any] = {"largest_logit": largest(state.variables)}
    if "batch_stats" in state.collections:
      found["val_loss_batch_statistics"] = loss_in_training_mode(
        engine, state.variables, task.validation
      )
    return found

  return measure


def loss_in_training_mode(
  engine: Engine, variables: PyTree, examples: Batch
) -> np.ndarray:
  """Returns the loss `[lanes]` with the statistics of each batch of examples.

  The batches have the size of those in training, and there is no dropout.
  """
  return engine.evaluate(
    variables,
    examples,
    model=without_dropout(engine.model),
    train=True,
    size=engine.source.size,
  )["loss"]


def largest_logit(engine: Engine, task: Task) -> Callable[[PyTree], jax.Array]:
  """Returns the function from variables to their largest attention logit.

  It is the largest absolute logit `[lanes]` of all heads and layers, on a batch
  of the validation set.
  """
  batch = task.validation.first(engine.source.size)
  largest = engine.compiled(
    lambda variables, batch: _largest_logit(engine, variables, batch), (0, None)
  )
  return lambda variables: largest(variables, batch)


def _largest_logit(engine: Engine, variables: PyTree, batch: Any) -> jax.Array:
  batch = devices.split(batch, engine.mesh)
  _, found = engine.model.apply(
    variables,
    batch.inputs,
    mask=batch.mask,
    train=False,
    mutable=["diagnostics"],
  )
  return jnp.max(jnp.stack(jax.tree.leaves(found)))
