"""How many fewer steps a convolutional net needs with batch norm.

    python -m experiments.convnet

The ConvNet of many tutorials at a quarter of its width: three stages of a 3x3
convolution (16, 32 and 64 channels), norm, ReLU and 2x2 max pooling, then a
dense layer of 128 with norm, ReLU and dropout 0.5. 600 batches of 64 images
halved to 14x14, with SGD, as in the source but without momentum, and with Adam.
After every 20 steps the accuracy on the validation images, at most 1,000, is
taken. About ten minutes on two cores.

A seed determines which images are for training, validation and test, the
initial weights and the order of the images. For every arm the learning rate is
chosen from five or more half decades by the validation loss of other seeds.
Batch norm is also trained at the best rate of the net without a norm ("equal
rate").

As in the source, it is counted how many steps the net without a norm takes to
its own highest accuracy, and after how many the net with batch norm has reached
the same. A net that never gets there counts with one evaluation more than there
are, so its ratio is too high. Two nets that are alike do not give 1 either,
since the second must reach the best of many noisy numbers of the first. What
they give, the control shows: two nets without a norm, of which the second has
other kernels and batches on the same images.

Source: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 4.2.2
and figure 3: Inception on ImageNet has its highest accuracy of 72.2% after 31
million steps. With batch norm alone it has that after 13.3 million, and with
five times the learning rate and other changes, such as no dropout, after 2.1
million, and then 73.0%.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments.lab import figures, options, parsers, study, tuning
from experiments.lab.claims import Below, Claim, Difference, Effect, Ratio
from experiments.lab.data.arrays import Pool
from experiments.lab.models.nets import ConvNet
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification
from experiments.lab.training.optimizers import OPTIMIZERS, TITLES

RATES = {"sgd": tuning.half_decades(-4, 0), "adam": tuning.half_decades(-7, -3)}
EVERY = 20  # Steps between evaluations.
WATCHED = 1_000  # Validation images of an evaluation.

_SOURCE = "Ioffe & Szegedy 2015, figure 3"
_STEPS: Mapping[str, Any] = {
  "quantity": "steps to the highest accuracy without a norm",
  "analysis": Ratio(by_rank=True),
}


def _fewer(optimizer: str, **others: Any) -> Claim:
  return Claim(
    f"fewer_steps_{optimizer}",
    f"with {TITLES[optimizer]}, each at its best rate, a net without a norm"
    " needs at least {margin} times as many steps to its highest accuracy as"
    " one with batch norm to the same",
    samples=("none", "bn"),
    criterion=Effect(4, none=1),
    why="the source has 14 times with more changes than the rate, and 2.3 times"
    " with batch norm alone; 4 is between them, as logarithms",
    **_STEPS,
    **others,
  )


FEWER = {
  "sgd": _fewer("sgd", source=_SOURCE, headline=True),
  "adam": _fewer("adam", source="ours; the source uses SGD"),
}
FEWER_EQUAL = Claim(
  "fewer_steps_equal_rate",
  "with SGD, at the best rate of the net without a norm, that net needs at"
  " least {margin} times as many steps to its highest accuracy as one with"
  " batch norm to the same",
  source=_SOURCE,
  samples=("none", "bn, equal rate"),
  criterion=Effect(2, none=1),
  why="the source has 2.3 times",
  **_STEPS,
)
CONTROL = Claim(
  "control",
  "with SGD, a net without a norm needs less than {margin} times as many steps"
  " to its highest accuracy as the same net with other kernels to the same",
  source="ours: the control",
  uncounted="a control",
  samples=("none", "none, again"),
  criterion=Below(2),
  why="the margin of fewer_steps_equal_rate",
  **_STEPS,
)
LOWER = {
  optimizer: Claim(
    f"lower_error_{optimizer}",
    f"with {TITLES[optimizer]}, each at its best rate, a net with batch norm"
    " errs at least {margin} points less than without a norm",
    source=_SOURCE if optimizer == "sgd" else "ours; the source uses SGD",
    quantity="test error",
    samples=("bn", "none"),
    analysis=Difference(by_rank=True),
    criterion=Effect(-0.3),
    why="a tenth of the 3% that such a net errs; the source has 0.8 of 27.8"
    " points",
    unit="points",
    form="+.2f",
  )
  for optimizer in OPTIMIZERS
}
CLAIMS = (*FEWER.values(), FEWER_EQUAL, CONTROL, *LOWER.values())


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The net, and how long to train."""

  hidden: tuple[int, ...] = option(
    (16, 32, 64, 128),
    "Channels of each stage and, last, width of the dense layer.",
    parsers.COUNTS,
  )
  dropout: float = option(0.5, "Dropout rate.", parsers.SHARE)
  steps: int = option(
    600, "Training steps.", flags.IntegerParser(lower_bound=EVERY)
  )


Arm = tuple[str, str]  # Norm, optimizer.


def train(
  arm: Arm,
  config: Config,
  pool: Pool,
  rates: Sequence[float],
  seeds: Sequence[int],
  again: bool = False,
) -> Parts:
  """Returns the results `[rates, seeds]` of an arm.

  Args:
    arm: Norm and optimizer.
    config: The settings.
    pool: Images from which each seed draws.
    rates, seeds: Learning rates, and seeds for each.
    again: Whether to take other kernels and batches, on the same images.

  Returns:
    As `classification.results`, and "accuracy", percent on the validation
    images after every `EVERY` steps, `[rates, seeds, evaluations]`.
  """
  norm, optimizer = arm
  images = pool.split(seeds, len(rates))
  assert images.validation is not None
  engine, state = classification.at_rates(
    ConvNet(
      norm=norm_factory(norm),
      hidden=config.hidden,
      dropout=config.dropout,
      num_classes=images.num_classes,
    ),
    OPTIMIZERS[optimizer],
    images,
    batch_size=64,
    seeds=[seed + tuning.AGAIN * again for seed in seeds],
    rates=rates,
    gain=config.gain,
  )
  watched = images.validation.first(WATCHED)
  accuracy = []
  for _ in range(config.steps // EVERY):
    state, _ = engine.train(state, EVERY)
    accuracy.append(engine.evaluate(state.variables, watched)["accuracy"])
  return classification.results(
    engine,
    state,
    images,
    len(rates),
    accuracy=100 * np.stack(accuracy, axis=1),
  )


def steps_to(accuracy: np.ndarray, target: np.ndarray) -> np.ndarray:
  """Returns the steps `[seeds]` until a target is reached.

  Args:
    accuracy: `[seeds, evaluations]`; NaN reaches no target.
    target: `[seeds]`.

  Returns:
    The steps of the first evaluation that is not below the target; one more
    evaluation than there are where none is.
  """
  reached = accuracy >= target[:, None]
  first = np.where(reached.any(1), reached.argmax(1), reached.shape[1])
  return EVERY * (first + 1)


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  pool = run.load_pool(config.dataset, halved=config.halve)
  found: dict[str, dict[str, Parts]] = {}
  for optimizer, grid in RATES.items():
    arms = found[optimizer] = {}
    for norm in ("none", "bn"):
      part = functools.partial(train, (norm, optimizer), config, pool)
      name = f"{optimizer}_{norm}"
      arms[norm] = tuning.tuned(run, name, part, grid, config)
    if optimizer == "sgd":
      rate = float(arms["none"]["rate"])
      for name, norm in (("bn, equal rate", "bn"), ("none, again", "none")):
        part = functools.partial(
          train,
          (norm, optimizer),
          config,
          pool,
          again=norm == "none",
        )
        key = f"{optimizer}_{name}".replace(", ", "_").replace(" ", "_")
        arms[name] = tuning.at_rate(run, key, part, rate, config.seed_numbers)
  steps = {optimizer: counted(arms) for optimizer, arms in found.items()}
  _show(found, steps)
  judge(found, steps, run)
  _draw(found, config, pool.name, run)


def counted(arms: Mapping[str, Parts]) -> dict[str, np.ndarray]:
  """Returns the steps of every arm to the highest accuracy without a norm."""
  target = np.nan_to_num(arms["none"]["accuracy"]).max(axis=1)
  return {
    name: steps_to(part["accuracy"], target) for name, part in arms.items()
  }


def _show(
  found: Mapping[str, Mapping[str, Parts]],
  steps: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
  rows = [
    [
      TITLES[optimizer],
      name,
      f"{part['rate']:.2g}",
      f"{np.median(steps[optimizer][name]):.0f}",
      shown(part["error"], ".2f"),
    ]
    for optimizer, arms in found.items()
    for name, part in arms.items()
  ]
  headers = ["optimizer", "net", "best rate", "steps (median)"]
  print(table(rows, [*headers, "test error (%)"]))


def judge(
  found: Mapping[str, Mapping[str, Parts]],
  steps: Mapping[str, Mapping[str, np.ndarray]],
  run: Run,
) -> None:
  """Judges the claims.

  Args:
    found: The arms, by optimizer and name.
    steps: From `counted`, by optimizer.
    run: Gets the samples.
  """
  for optimizer, arms in found.items():
    taken = steps[optimizer]
    run.judge(FEWER[optimizer], taken["none"], taken["bn"])
    run.judge(LOWER[optimizer], arms["bn"]["error"], arms["none"]["error"])
  taken = steps["sgd"]
  run.judge(FEWER_EQUAL, taken["none"], taken["bn, equal rate"])
  run.judge(CONTROL, taken["none"], taken["none, again"])


def _draw(
  found: Mapping[str, Mapping[str, Parts]],
  config: Config,
  data: str,
  run: Run,
) -> None:
  with figures.drawing(
    run,
    "convnet",
    title=f"ConvNet of {', '.join(map(str, config.hidden))}, {data}",
    caption=figures.seeds_caption(config.seeds),
  ) as axes:
    for panel, (optimizer, arms) in zip(axes, found.items(), strict=True):
      for name, part in arms.items():
        if name == "none, again":
          continue
        error = 100 - part["accuracy"]
        figures.curve(
          panel,
          EVERY * np.arange(1, error.shape[1] + 1),
          np.maximum(error, 100 / WATCHED),
          name.partition(",")[0],
          name=name,
          style="--" if "equal" in name else "-",
          geometric=True,
        )
      figures.label(
        panel,
        TITLES[optimizer],
        "Training step",
        "Validation error (%)",
        log_y=True,
      )


STUDY = study.Study(
  "convnet",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "steps": 60,
    "hidden": (4, 8, 8, 16),
  },
  full={"hidden": (64, 128, 256, 512), "steps": 10_000, "halve": False},
  confirm={"seed": 100, "seeds": 20},
  sensitivity={
    "rate_factor": (10**-0.5, 10**0.5),
    "gain": (0.5, 2.0),
    "steps": (300, 1_200),
    "hidden": ((8, 16, 32, 64), (32, 64, 128, 256)),
  },
)

if __name__ == "__main__":
  study.main(STUDY)
