"""Batch norm's statistics when a trained net gets images of another scanner.

    python -m experiments.transfer

An MLP 196-128-128-10 with batch norm is trained on the images of one site, all
but 192 of at most 4,200 of a seed. A second site has another scanner: more
intensity, less contrast, another gamma, more noise. From there come 192 images,
without labels and with. The net is tested on images of both sites:

- as it is;
- with statistics that are re-estimated on the 192 images, without labels;
- after fine-tuning on the 192 images for ten epochs, with batches of 2, 8 and
  64 and three kinds of statistics: "frozen", those of the first site, which are
  used and kept; "re-estimated", those of the second site, used and kept; and
  "updated", those of each batch in training, with running averages.

About five minutes on two cores.

Images are halved to 14x14. A seed determines which images are for training,
validation and test, the initial weights and the order of the images. Both sites
have the same test patients, but none of the 192 images is of a patient that the
first site trained on. Adam; the learning rates of the training and of every
fine-tuning are chosen from five or more half decades by the validation loss (of
the second site for fine-tuning) with other seeds.

Sources: Schneider et al., 2020, https://arxiv.org/abs/2006.16971: with
statistics of corrupted images, without labels, the mean corruption error of a
ResNet-50 falls from 76.7 to 62.2%. Li et al., 2016,
https://arxiv.org/abs/1603.04779: adaptive batch norm between domains.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from experiments.lab import figures, options, parsers, study, tuning
from experiments.lab.claims import (
  Above,
  Below,
  Check,
  Claim,
  Difference,
  Effect,
  Level,
  Within,
)
from experiments.lab.data.arrays import Images, Pool
from experiments.lab.data.batch import Members
from experiments.lab.data.scanners import Scanner, rescanned
from experiments.lab.errors import RefusedError
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.options import option
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.lab.training import classification
from normjax import linen

RATES = tuning.half_decades(-8, -4)
PRETRAINING = tuning.half_decades(-7, -3)
BATCH = 64  # In the training at the first site.
SIZES = (2, 8, 64)
MODES = ("frozen", "re-estimated", "updated")
SECOND = Scanner(intensity=0.2, contrast=0.5, gamma=0.6, noise=0.1)

_SCHNEIDER = "Schneider et al. 2020, table 1, of corruptions"
_POINTS: Mapping[str, Any] = {
  "quantity": "test error at the second site",
  "analysis": Difference(),
  "unit": "points",
  "form": "+.2f",
}
WON_BACK = Claim(
  "won_back",
  "of the accuracy lost to the other scanner, statistics re-estimated without"
  " labels win back more than {margin}",
  source=_SCHNEIDER,
  quantity="share of the loss that is won back",
  samples=("bn",),
  analysis=Level(by_rank=True),
  criterion=Above(0.5),
  why="ours: the larger part; the source has no error without corruption, of"
  " which 14.5 points would be a share",
  headline=True,
)
CONTROL = Claim(
  "no_shift_no_effect",
  "statistics re-estimated on as many images of the first site change the error"
  " there by no more than {margin} points",
  source="ours: the control",
  quantity="test error at the first site",
  samples=("re-estimated", "as trained"),
  analysis=Difference(),
  criterion=Within(1),
  why="a tenth of the ten points that the second scanner is to cost",
  unit="points",
  form="+.2f",
)
SMALL = Claim(
  "updated_worse_at_2",
  "fine-tuned with batches of 2, a net that updates its statistics errs at"
  " least {margin} point more than one that keeps re-estimated ones",
  source="ours; Wu & Johnson 2021, section 3, advise against batches of 2",
  samples=("updated", "re-estimated"),
  criterion=Effect(1),
  why="one error more in a hundred images",
  headline=True,
  **_POINTS,
)
LARGE = Claim(
  "updated_alike_at_64",
  "fine-tuned with batches of 64, a net that updates its statistics errs within"
  " {margin} point of one that keeps re-estimated ones",
  source="ours",
  samples=("updated", "re-estimated"),
  criterion=Within(1),
  why="the margin of updated_worse_at_2",
  **_POINTS,
)
FROZEN = {
  size: Claim(
    f"frozen_worse_at_{size}",
    f"fine-tuned with batches of {size}, a net that keeps the statistics of the"
    " first site errs at least {margin} point more than one that keeps"
    " re-estimated ones",
    source="ours",
    samples=("frozen", "re-estimated"),
    criterion=Effect(1),
    why="the margin of updated_worse_at_2",
    **_POINTS,
  )
  for size in (SIZES[0], SIZES[-1])
}
CLAIMS = (WON_BACK, CONTROL, SMALL, LARGE, *FROZEN.values())
KEPT = Check(
  "frozen_statistics_are_kept",
  "frozen statistics are the same to the last bit after fine-tuning",
  source="the definition",
  quantity="largest change of a running statistic",
  criterion=Below(1e-30),
)


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The net, the data, and how long to train."""

  hidden: tuple[int, ...] = option(
    (128, 128), "Width of each hidden layer.", parsers.COUNTS
  )
  train: int = option(
    4_200, "Maximum number of images of both sites.", parsers.COUNT
  )
  images: int = option(192, "Images of the second site.", parsers.COUNT)
  examples: int = option(
    48_000, "Examples of the training at the first site.", parsers.COUNT
  )
  epochs: int = option(10, "Epochs of fine-tuning.", parsers.COUNT)


class Sites(NamedTuple):
  """The images of each seed.

  Attributes:
    first: What the first site trains on, validates and tests with.
    second: What the second site has, for the same three.
    scanned_twice: As `second`, recorded by the scanner of the first site.
  """

  first: Images[Members]
  second: Images[Members]
  scanned_twice: Images[Members]


class Pools(NamedTuple):
  """The same images as recorded by the scanners of both sites."""

  first: Pool
  second: Pool

  def split(
    self, config: Config, seeds: Sequence[int], rates: int = 1
  ) -> Sites:
    """Returns the images of each seed; see `Pool.split`."""
    first, second = (pool.split(seeds, rates) for pool in self)
    count = first.train.num_examples - config.images
    if min(count, config.images) < BATCH:
      raise RefusedError(
        f"{first.train.num_examples:,} images, of which --images="
        f"{config.images:,} are of the second site, do not leave a batch of"
        f" {BATCH} for both sites; choose others, or more with --train."
      )
    ours, theirs = slice(count), slice(count, None)
    return Sites(
      first._replace(train=first.train.some(ours)),
      second._replace(train=second.train.some(theirs)),
      first._replace(train=first.train.some(theirs)),
    )


def make_model(config: Config, images: Images[Any]) -> MLP:
  """Returns the net."""
  return MLP(
    norm=norm_factory("bn"),
    hidden=config.hidden,
    num_classes=images.num_classes,
  )


def pretrain(
  config: Config, pools: Pools, rates: Sequence[float], seeds: Sequence[int]
) -> Parts:
  """Trains at the first site.

  Returns:
    `[rates, seeds, ...]`: "validation", the loss at the first site; test errors
    in percent, "first" and "second", and "first again" and "second again" with
    re-estimated statistics; and the variables by their paths.
  """
  sites = pools.split(config, seeds, len(rates))
  engine, state, _ = classification.train_at_rates(
    make_model(config, sites.first),
    optax.adam,
    sites.first,
    batch_size=BATCH,
    seeds=seeds,
    rates=rates,
    steps=max(1, config.examples // BATCH),
    gain=config.gain,
  )
  assert sites.first.validation is not None
  metrics = engine.evaluate(state.variables, sites.first.validation)
  found = {"validation": metrics["loss"]}
  for name, images in (
    ("first", sites.scanned_twice),
    ("second", sites.second),
  ):
    # Each site has its own conversion of bytes, hence its own engine.
    there = classification.classifier(
      engine.model, optax.adam(1.0), images, batch_size=BATCH
    )
    again = classification.reestimated(there, state, images.train)
    for suffix, variables in (("", state.variables), (" again", again)):
      found[name + suffix] = classification.error(there, variables, images.test)
  found |= traverse_util.flatten_dict(state.variables, sep="/")
  return {
    name: np.reshape(leaf, (len(rates), len(seeds), *np.shape(leaf)[1:]))
    for name, leaf in found.items()
  }


def fine_tune(
  mode: str,
  size: int,
  start: Callable[[Sequence[int]], Parts],
  config: Config,
  pools: Pools,
  rates: Sequence[float],
  seeds: Sequence[int],
) -> Parts:
  """Fine-tunes at the second site.

  Args:
    mode: One of `MODES`.
    size: Number of images in a batch.
    start: Returns the variables of the trained nets of seeds, by path.
    config: The settings.
    pools: Images.
    rates, seeds: Learning rates, and seeds for each.

  Returns:
    `[rates, seeds]`: "validation", the loss at the second site, "error", its
    test error in percent, and "change", the largest change of a running
    statistic by the fine-tuning.
  """
  images = pools.split(config, seeds, len(rates)).second
  engine, state = classification.at_rates(
    make_model(config, images),
    optax.adam,
    images,
    batch_size=size,
    seeds=seeds,
    rates=rates,
  )
  variables = traverse_util.unflatten_dict(
    {
      name: jnp.concatenate([jnp.asarray(leaf)] * len(rates))
      for name, leaf in start(seeds).items()
      if "/" in name
    },
    sep="/",
  )
  state = dataclasses.replace(
    state,
    params=variables.pop("params"),
    collections=variables,
  )
  if mode == "re-estimated":
    again = classification.reestimated(engine, state, images.train)
    state = dataclasses.replace(
      state, collections={"batch_stats": again["batch_stats"]}
    )
  before = jax.tree.map(np.asarray, state.collections)
  frozen = contextlib.nullcontext() if mode == "updated" else linen.frozen()
  with frozen:
    state, _ = engine.train(state, config.epochs * engine.source.period)
  changes = jax.tree.map(
    lambda old, new: np.abs(old - np.asarray(new)).reshape(len(old), -1).max(1),
    before,
    state.collections,
  )
  assert images.validation is not None
  found = {
    "validation": engine.evaluate(state.variables, images.validation)["loss"],
    "error": classification.error(engine, state.variables, images.test),
    "change": np.max(jax.tree.leaves(changes), axis=0),
  }
  return {
    name: np.reshape(values, (len(rates), -1)) for name, values in found.items()
  }


Arm = tuple[str, int]  # Mode, batch size.


def measure(config: Config, run: Run) -> None:
  """Trains and fine-tunes, prints, judges and draws."""
  pool = run.load_pool(config.dataset, train=config.train, halved=config.halve)
  pools = Pools(pool, rescanned(pool, SECOND))
  train = functools.partial(pretrain, config, pools)
  first = tuning.tuned(run, "first_site", train, PRETRAINING, config)

  def start(seeds: Sequence[int]) -> Parts:
    if [*seeds] == [*config.seed_numbers]:
      return first
    part = functools.partial(train, [float(first["rate"])], seeds)
    found = run.part("first_site_of_tuning_seeds", part)
    return {name: values[0] for name, values in found.items()}

  arms: dict[Arm, Parts] = {}
  for mode in MODES:
    for size in SIZES:
      part = functools.partial(fine_tune, mode, size, start, config, pools)
      arms[mode, size] = tuning.tuned(
        run, f"{mode}_{size}", part, RATES, config
      )
  _show(first, arms)
  judge(first, arms, run)
  _draw(first, arms, config, pool.name, run)
  _draw_scanners(pools, run)


def _show(first: Parts, arms: Mapping[Arm, Parts]) -> None:
  rows = [
    [
      "as trained",
      *(shown(first[name], ".2f") for name in ("first", "second")),
    ],
    [
      "re-estimated",
      *(shown(first[f"{name} again"], ".2f") for name in ("first", "second")),
    ],
  ]
  headers = ["statistics", "error at the first site (%)", "at the second (%)"]
  print(f"\nWithout labels\n{table(rows, headers)}")
  rows = [
    [mode, f"{size}", f"{part['rate']:.2g}", shown(part["error"], ".2f")]
    for (mode, size), part in arms.items()
  ]
  headers = ["statistics", "batch", "best rate", "error at the second site (%)"]
  print(f"\nFine-tuned\n{table(rows, headers)}\n")


def judge(first: Parts, arms: Mapping[Arm, Parts], run: Run) -> None:
  """Judges the claims.

  Args:
    first: From `pretrain`, `[seeds]`.
    arms: From `fine_tune`, `[seeds]`, by mode and batch size.
    run: Gets the samples.
  """
  lost = first["second"] - first["first"]
  # Where nothing is lost, nothing can be won back.
  won = (first["second"] - first["second again"]) / np.where(lost > 0, lost, 1)
  run.judge(WON_BACK, np.where(lost > 0, won, 0.0))
  run.judge(CONTROL, first["first again"], first["first"])

  def compare(claim: Claim, size: int) -> None:
    run.judge(claim, *(arms[mode, size]["error"] for mode in claim.samples))

  compare(SMALL, 2)
  compare(LARGE, 64)
  for size, claim in FROZEN.items():
    compare(claim, size)
  changes = [arms[mode, size]["change"] for mode in MODES[:2] for size in SIZES]
  run.check(KEPT, np.max(changes))


def _draw(
  first: Parts,
  arms: Mapping[Arm, Parts],
  config: Config,
  data: str,
  run: Run,
) -> None:
  colors = dict(zip(MODES, ("C0", "C2", "C1"), strict=True))
  with figures.drawing(
    run,
    "transfer",
    columns=1,
    size=(11.2, 5.4),
    title=f"Another scanner, {data}",
    caption=f"{figures.seeds_caption(config.seeds)}; each point at its best"
    " learning rate",
  ) as (panel,):
    for name, label, style in (
      ("second", "as trained", ":"),
      ("second again", "re-estimated, without labels", "--"),
    ):
      values = np.repeat(first[name][:, None], len(SIZES), axis=1)
      figures.curve(
        panel,
        SIZES,
        values,
        "bn",
        name=label,
        color="0.4",
        style=style,
        marker="",
        geometric=True,
      )
    for mode in MODES:
      values = np.transpose([arms[mode, size]["error"] for size in SIZES])
      figures.curve(
        panel,
        SIZES,
        values,
        "bn",
        name=f"fine-tuned, {mode}",
        color=colors[mode],
        geometric=True,
      )
    panel.set_xscale("log", base=2)
    panel.set_xticks(SIZES, map(str, SIZES))
    figures.label(
      panel,
      "Test error at the second site",
      "Batch size of fine-tuning",
      "Error (%)",
      log_y=True,
    )


def _draw_scanners(pools: Pools, run: Run) -> None:
  """Draws images as both scanners record them."""
  count = 6
  with figures.drawing(
    run,
    "scanners",
    rows=2,
    columns=count,
    size=(10.0, 4.2),
    title="The same images from two scanners",
    legend=False,
    caption="Above: first site, below: second site",
  ) as axes:
    shown_ = np.concatenate([pool.prepared(count).inputs for pool in pools])
    for panel, image in zip(axes, shown_, strict=True):
      panel.imshow(image, cmap="gray", vmin=0, vmax=1)
      panel.set_axis_off()


STUDY = study.Study(
  "transfer",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  (KEPT,),
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "examples": 3_200,
    "epochs": 1,
    "hidden": (32,),
  },
  full={"examples": 480_000, "train": 48_000, "halve": False},
  confirm={"seed": 100, "seeds": 20},
  sensitivity={
    "rate_factor": (10**-0.5, 10**0.5),
    "gain": (0.5, 2.0),
    "epochs": (5, 20),
    "hidden": ((64, 64), (256, 256)),
  },
)

if __name__ == "__main__":
  study.main(STUDY)
