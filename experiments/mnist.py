"""The effect of a norm in a small MNIST classifier with early stopping.

    python -m experiments.mnist --norm=ln
    python -m experiments.mnist --norm=none,ln,rms,bn,gn --seeds=5
    python -m experiments.mnist --norm=none,ln,bn --seeds=5 --resplit --tune

The model of many tutorials: 784 -> Dense(128) -> norm -> ReLU -> Dense(10),
Adam 1e-3, batches of 64, a fifth of the training set for validation, at most
20 epochs, patience 3, best parameters restored. On two CPU cores the first
command takes about 10 seconds, each of the others about 3 minutes. The workdir
also gets metrics.jsonl, checkpoints/ and tensorboard/.

Claims are judged if `none` is the first norm and there are two seeds or more.
Seeds are paired: all norms share split, initial kernels, data order and dropout
keys.

By default all seeds share the official test set and one split of the rest, so
that the intervals are over seeds alone and say nothing of other images. With
--resplit every seed draws its own sets from all images, so that the intervals
are also over splits, and over test images. (The splits of one data set overlap:
for new data the intervals would be wider, see Nadeau & Bengio, 2003.)

All norms train at the learning rate of the tutorials, which may suit one better
than another. With --tune, a first epoch is also trained with no norm, layer
norm and batch norm, each at its own rate: the one of five or more from 0.0003
to 0.03 that has the lowest validation loss after an epoch, with other seeds.

Sources: Ba et al., 2016, https://arxiv.org/abs/1607.06450, section 6.6: layer
norm in a net 784-1000-1000-10 on MNIST. The text says that it converges faster
than batch norm, which is after the output layer too; no norm is only a curve in
figure 6. The learning rate is not given. Section 6.7 says that batch norm does
better in convolutional nets. Ioffe & Szegedy, 2015,
https://arxiv.org/abs/1502.03167, section 4.1: batch norm in a net of sigmoids
on MNIST. Each shows one run.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.lab import (
  comparison,
  curves,
  options,
  parsers,
  study,
  tuning,
)
from experiments.lab.claims import Claim, Difference, Effect, Ratio, Within
from experiments.lab.data import arrays
from experiments.lab.data.arrays import Images
from experiments.lab.errors import RefusedError
from experiments.lab.models.nets import MODELS, NORM_POSITIONS
from experiments.lab.models.norms import error_text, norm_factory
from experiments.lab.options import option
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification, losses
from experiments.lab.training.engine import Engine
from experiments.lab.training.fit import Schedule
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.session import Session, Style

# Returns the images of seeds at a number of rates, as `Pool.split` does.
Split = Callable[[Sequence[int], int], Images]

RATES = tuning.half_decades(-7, -3)  # With --tune.
TUNED = ("none", "ln", "bn")

_OURS = "ours, from a pilot"
_BA = "Ba et al. 2016, section 6.6: the curves in figure 6, not the text"
_IOFFE = "Ioffe & Szegedy 2015, section 4.1, of sigmoids"
_FASTER: Mapping[str, Any] = {
  "quantity": "training loss of epoch 1",
  "analysis": Ratio(cap=losses.guessing(10)),
  "criterion": Effect(0.9, none=1),
  "why": "the sources show curves without numbers; a tenth is about what a"
  " reader sees in such a curve",
  "form": ".3f",
}
FASTER = {
  norm: Claim(
    f"{norm}_faster",
    f"at a learning rate of {{learning_rate:g}}, {norm} has a loss in epoch 1"
    " below {margin} times that of no norm ({model})",
    source=source,
    samples=(norm, "none"),
    spread=spread,
    pilot="that it is so, from seeds 0 to 4" if source == _OURS else "",
    headline=norm == "ln",
    **_FASTER,
  )
  for norm, source, spread in (
    ("ln", _BA, 0.011),
    ("rms", _OURS, 0.0093),
    ("bn", _IOFFE, 0.033),
    ("gn", _OURS, 0.012),
  )
}
FASTER_TUNED = {
  norm: Claim(
    f"{norm}_faster_tuned",
    f"each at the rate with its lowest validation loss after epoch 1, {norm}"
    " has a training loss of epoch 1 below {margin} times that of no norm"
    " ({model})",
    source="ours: the sources choose no rates",
    samples=(f"{norm}, tuned", "none, tuned"),
    spread=spread,
    **_FASTER,
  )
  for norm, spread in (("ln", 0.054), ("bn", 0.058))
}
EQUAL = {
  norm: Claim(
    f"{norm}_equal",
    f"{norm} ends within {{margin}} points of the test accuracy of no norm"
    " ({model})",
    source="ours",
    quantity="test accuracy",
    samples=(norm, "none"),
    analysis=Difference(),
    criterion=Within(0.5),
    why="accuracies are usually compared in whole percent",
    unit="points",
    form="+.2f",
    spread=spread,
  )
  for norm, spread in (("ln", 0.53), ("rms", 0.85), ("bn", 0.53), ("gn", 0.46))
}
CLAIMS = (*FASTER.values(), *FASTER_TUNED.values(), *EQUAL.values())


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
    "Dense layers (mlp), 3x3 convolutions (cnn), which instance norm needs, or"
    " the net of many tutorials (convnet): stages of a 3x3 convolution, norm,"
    " ReLU and 2x2 max pooling, then a dense layer, norm, ReLU and dropout.",
    parsers.one_of(list(MODELS)),
  )
  hidden: tuple[int, ...] = option(
    (),
    "Width of each hidden layer (mlp) or channels of each convolution (cnn),"
    " separated by commas; for convnet channels of each stage and, last, width"
    " of the dense layer. Empty means 128 (mlp), 16,32,32 (cnn) or"
    " 64,128,256,512 (convnet).",
    parsers.COUNTS,
  )
  dropout: float = option(
    0.0,
    "Dropout rate of the activations. Unless it is given, it is 0.5 with"
    " --model=convnet.",
    parsers.SHARE,
  )
  gain: float = option(1.0, "Factor of the initial kernels.", parsers.POSITIVE)
  resplit: bool = option(
    False,
    "Let every seed draw its own training, validation and test images, instead"
    " of the official test set.",
    parsers.BOOLEAN,
  )
  tune: bool = option(
    False,
    f"Also compare {', '.join(TUNED)} in one epoch, each at its best rate.",
    parsers.BOOLEAN,
  )

  @property
  def judges(self) -> bool:
    """Whether there is something to compare."""
    return self.norm[0] == "none" and self.seeds > 1

  def unused(self) -> dict[str, str]:
    found = super().unused()
    if self.norm == ("none",):
      found["norm_position"] = "with --norm=none"
    if self.resplit:
      found["train_fraction"] = "with --resplit, which keeps 20% for validation"
    if not self.judges:
      found["tune"] = "without --norm=none,... and two seeds or more"
    return found


def complete(config: Config, given: Collection[str]) -> Config:
  """Returns the settings with the model's own dropout, unless it is given.

  Args:
    config: Settings from the command line.
    given: Names of the flags on the command line.
  """
  if "dropout" in given:
    return config
  return dataclasses.replace(config, dropout=MODELS[config.model].dropout)


def make_engine(
  norm: str,
  config: Config,
  data: Images,
  mesh: Mesh | None = None,
  optimizer: optax.GradientTransformation | None = None,
) -> Engine:
  """Returns the engine that trains the model with a norm.

  Args:
    norm: Short name of the norm.
    config: The settings.
    data: Images to train on.
    mesh: Devices that share every batch; None for one device.
    optimizer: By default Adam at the learning rate of the settings.
  """
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
    optimizer or optax.adam(config.learning_rate),
    data,
    batch_size=config.batch_size,
    loss=losses.cross_entropy(data.prepare, l1=config.l1, l2=config.l2),
    gain=config.gain,
    mesh=mesh,
  )


def measure(config: Config, run: Run) -> dict[str, Any]:
  """Trains with every norm, compares and judges."""
  if config.dataset in ("auto", "mnist"):  # Before it is downloaded.
    _check(config, arrays.shapes((28, 28, 1), config.batch_size))
  split = load(config, run)
  data = split(config.seed_numbers, 1)
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
  if config.judges:
    judge(results, run)
  if config.judges and config.tune:
    _compare_tuned(config, split, run)
  return {"norms": results}


def load(config: Config, run: Run) -> Split:
  """Loads the images that all seeds share, or those that each draws from."""
  if config.resplit:
    return run.load_pool(config.dataset).split
  if config.seeds > 1:
    run.tell(
      "All seeds share the official test set: intervals are over seeds alone;"
      " see --resplit."
    )
  images = run.load_images(config.dataset, train_fraction=config.train_fraction)
  return lambda seeds, rates: images


def _check(config: Config, data: Images) -> None:
  """Raises the errors of model and norm before anything is computed."""
  for norm in config.norm:
    engine = make_engine(norm, config, data)
    try:
      engine.check(config.seeds)
    except RefusedError:
      raise
    except (TypeError, ValueError) as error:
      why = error_text(error, "every number in --hidden")
      if config.model != "cnn" and "spatial" in str(error):
        why += " With --model=cnn there are spatial axes."
      raise RefusedError(
        f"--norm={norm} cannot be trained with --model={config.model},"
        f" --batch_size={config.batch_size} on images"
        f" {data.sample.shape[1:]}: {why}"
      ) from error


def _train(
  norm: str, config: Config, data: Images, run: Run, trainings: Session
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


def judge(results: Mapping[str, Mapping[str, Any]], run: Run) -> None:
  """Judges every norm that has claims against no norm."""

  def compare(claim: Claim, name: str, factor: float = 1) -> None:
    run.judge(
      claim,
      *(
        factor * np.array(results[norm][name], np.float64)
        for norm in claim.samples
      ),
    )

  for norm in results:
    if norm in FASTER:
      compare(FASTER[norm], "epoch1_train_loss")
      compare(EQUAL[norm], "test_accuracy", factor=100)


def first_epoch(
  norm: str,
  config: Config,
  split: Split,
  mesh: Mesh | None,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  """Returns training and validation loss of an epoch, `[rates, seeds]`."""
  images = split(seeds, len(rates))
  assert images.validation is not None
  engine = make_engine(norm, config, images, mesh, swept(optax.adam))
  state = engine.init(seeds, learning_rate=rates)
  state, records = engine.train(state, engine.source.period)
  validation = engine.evaluate(state.variables, images.validation)["loss"]
  found = {"loss": records.means()["loss"], "validation": validation}
  return {
    name: np.reshape(values, (len(rates), -1)) for name, values in found.items()
  }


def _compare_tuned(config: Config, split: Split, run: Run) -> None:
  """Trains an epoch with each norm at its best rate, prints and judges."""
  judged = options.TuningConfig(seeds=config.seeds, seed=config.seed)
  arms = {}
  for norm in TUNED:
    if norm in config.norm:
      part = functools.partial(first_epoch, norm, config, split, run.mesh)
      name = f"{norm}_first_epoch"
      arms[norm] = tuning.tuned(run, name, part, RATES, judged)
  rows = [
    [norm, f"{arm['rate']:.2g}", shown(arm["loss"], ".4f")]
    for norm, arm in arms.items()
  ]
  print(table(rows, ["norm", "best rate", "epoch 1 loss"]))
  judge_tuned({norm: arm["loss"] for norm, arm in arms.items()}, run)


def judge_tuned(loss: Mapping[str, np.ndarray], run: Run) -> None:
  """Judges the norms at their best rates; losses are `[seeds]`."""
  for norm, claim in FASTER_TUNED.items():
    if norm in loss:
      run.judge(claim, loss[norm], loss["none"])


STUDY = study.Study(
  "mnist",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  quick={"norm": ("none", "ln", "bn"), "seeds": 2, "epochs": 2},
  confirm={
    "seed": 100,
    "seeds": 20,
    "norm": ("none", "ln", "rms", "bn", "gn"),
    "resplit": True,
    "tune": True,
  },
  sensitivity={
    "learning_rate": (3e-4, 3e-3),
    "gain": (0.5, 2.0),
    "batch_size": (32, 128),  # The headline is of the steps of one epoch.
    "hidden": ((64,), (256,)),
  },
)

if __name__ == "__main__":
  study.main(
    STUDY,
    complete=complete,
    show=lambda config, run, summary: comparison.show(summary["norms"]),
    several_devices=True,
  )
