"""The effect of a norm in a small MNIST classifier with early stopping.

    python -m experiments.mnist --norm=ln
    python -m experiments.mnist --norm=none,ln,rms,bn,gn --seeds=5

The model of many tutorials: 784 -> Dense(128) -> norm -> ReLU -> Dense(10),
Adam 1e-3, batches of 64, a fifth of the training set for validation, at most
20 epochs, patience 3, best parameters restored. On two CPU cores the first
command takes about 10 seconds, the second about 3 minutes.

Claims are judged if `none` is the first norm and there are two seeds or more.
Seeds are paired: all norms share split, initial kernels, data order and dropout
keys. The workdir also gets metrics.jsonl, checkpoints/ and tensorboard/.

Source: Ba et al., 2016, https://arxiv.org/abs/1607.06450, section 6.7.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.lab import comparison, curves, options, parsers, study
from experiments.lab.claims import Below, Claim, Within
from experiments.lab.data import arrays
from experiments.lab.errors import RefusedError
from experiments.lab.models.nets import MODELS, NORM_POSITIONS
from experiments.lab.models.norms import error_text, norm_factory
from experiments.lab.options import option
from experiments.lab.statistics import paired_difference, paired_ratio
from experiments.lab.study import Run
from experiments.lab.training import classification, losses
from experiments.lab.training.engine import Engine
from experiments.lab.training.fit import Schedule
from experiments.lab.training.session import Session, Style

FASTER = Claim(
  "{norm} learns faster than none ({net})",
  source="Ba et al. 2016",
  quantity="ratio of train losses of epoch 1 to none",
  criterion=Below(0.9),
  form=".3f",
)
EQUAL = Claim(
  "{norm} ends equal to none ({net})",
  source="tutorials",
  quantity="test accuracy minus that of none",
  criterion=Within(0.5),
  unit="points",
  form="+.2f",
)
CLAIMS = (FASTER, EQUAL)

QUICK = {"norm": ("none", "ln", "bn"), "seeds": 2, "epochs": 2}


@dataclasses.dataclass(frozen=True)
class Config(options.EarlyStoppingConfig):
  """The settings that determine the numbers of a run."""

  seeds: int = option(
    1,
    "Number of seeds, trained at once: --seed, --seed + 1, ...",
    parsers.SEEDS,
  )
  norm: tuple[str, ...] = option(
    ("ln",),
    "One or several norms, separated by commas; each is trained and compared"
    " with the first.",
    parsers.NORMS,
  )
  norm_position: str = option(
    "before",
    "Whether the norm is before or after the activation.",
    parsers.one_of(NORM_POSITIONS),
  )
  model: str = option(
    "mlp",
    "Dense layers (mlp) or 3x3 convolutions (cnn), which instance norm needs.",
    parsers.one_of(list(MODELS)),
  )
  hidden: tuple[int, ...] = option(
    (),
    "Width of each hidden layer (mlp) or channels of each convolution (cnn),"
    " separated by commas. Empty means 128 (mlp) or 16,32,32 (cnn).",
    parsers.COUNTS,
  )

  def unused(self) -> dict[str, str]:
    found = super().unused()
    if self.norm == ("none",):
      found["norm_position"] = "with --norm=none"
    return found


def make_engine(
  norm: str, config: Config, data: arrays.Images, mesh: Mesh | None = None
) -> Engine:
  """Returns the engine that trains the model with a norm."""
  architecture = MODELS[config.model]
  model = architecture(
    norm=norm_factory(norm),
    norm_position=config.norm_position,
    hidden=config.hidden or architecture.hidden,
    dropout=config.dropout,
    num_classes=data.num_classes,
    dtype=jnp.dtype(config.dtype),
  )
  return classification.classifier(
    model,
    optax.adam(config.learning_rate),
    data,
    batch_size=config.batch_size,
    loss=losses.cross_entropy(data.prepare, l1=config.l1, l2=config.l2),
    scan=not (config.model == "cnn" and jax.default_backend() == "cpu"),
    mesh=mesh,
  )


def measure(config: Config, run: Run) -> dict[str, Any]:
  """Trains with every norm, compares and judges."""
  if config.dataset in ("auto", "mnist"):  # Before it is downloaded.
    _check(config, arrays.shapes((28, 28, 1), config.batch_size))
  data = run.load_images(config.dataset, train_fraction=config.train_fraction)
  _check(config, data)
  results = {}
  with run.trainings(config.norm, label="norm") as trainings:
    for norm in config.norm:
      results[norm] = _train(norm, config, data, run, trainings)
    histories = {
      norm: curves.History.of(records, "epoch", norm)
      for norm, records in trainings.records.items()
    }
  curves.draw(run, histories, f"{data.name}, {config.model}", "Epoch")
  comparison.show_table(results)
  if config.norm[0] == "none" and config.seeds > 1:
    judge(results, run, config.model)
  return {"norms": results}


def _check(config: Config, data: arrays.Images) -> None:
  """Raises the errors of model and norm before anything is computed."""
  for norm in config.norm:
    engine = make_engine(norm, config, data)
    try:
      engine.check(config.seeds)
    except RefusedError:
      raise
    except (TypeError, ValueError) as error:
      why = error_text(error, "every number in --hidden")
      if config.model == "mlp" and "spatial" in str(error):
        why += " With --model=cnn there are spatial axes."
      raise RefusedError(
        f"--norm={norm} cannot be trained with --model={config.model},"
        f" --batch_size={config.batch_size} on images"
        f" {data.train.inputs.shape[1:]}: {why}"
      ) from error


def _train(
  norm: str, config: Config, data: arrays.Images, run: Run, trainings: Session
) -> dict[str, Any]:
  """Trains and tests with one norm; returns JSON values."""
  engine = make_engine(norm, config, data, run.mesh)
  assert data.validation is not None
  epoch = engine.source.period
  stopping = config.patience, config.min_delta
  progress = trainings.fit(
    norm,
    engine,
    seeds=config.seed_numbers,
    validation=data.validation,
    schedule=Schedule(epoch, epoch * config.epochs, *stopping),
    style=Style(comparison.COLUMNS, "epoch", epoch),
  )
  result = comparison.result(engine, progress, data, trainings.records[norm])
  print(comparison.lines(result))
  return result


def judge(results: Mapping[str, Mapping[str, Any]], run: Run, net: str) -> None:
  """Judges every norm against the first one."""
  first, *others = results
  for norm in others:
    pair = results[norm], results[first]
    first_epoch = (result["epoch1_train_loss"] for result in pair)
    ratio = paired_ratio(*first_epoch, diverged_at_least=math.inf)
    run.judge(FASTER, ratio, norm=norm, net=net)
    points = (100 * np.array(result["test_accuracy"]) for result in pair)
    run.judge(EQUAL, paired_difference(*points), norm=norm, net=net)


if __name__ == "__main__":
  study.main(
    "mnist",
    measure,
    Config(),
    CLAIMS,
    quick=QUICK,
    show=lambda config, run, summary: comparison.show(summary["norms"]),
    several_devices=True,
  )
