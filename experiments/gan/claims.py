"""What is claimed, and the numbers of an arm that it is judged by."""

from collections.abc import Mapping

import numpy as np

from experiments.gan.measures import late
from experiments.lab.claims import Claim, Difference, Effect, Ratio, Within
from experiments.lab.study import Parts, Run

AGAIN, EQUAL = "both_again", "all_equal_rate"  # Arms of a second training.
_STILL = 1e-6  # Least movement; a generator whose tanh saturates has none.
_RADFORD = "Radford et al. 2015, section 3"
_DISTANCE = "Fréchet distance at the end"
_PILOT = (
  "two default seeds at three rates, which showed that the task is learned"
)
COLLAPSE = Claim(
  "collapse",
  "over the training, samples have an entropy of classes at least {margin} nats"
  " higher with batch norm in the generator than without a norm",
  source=_RADFORD,
  quantity="entropy of classes, mean of all measurements",
  samples=("bn in G", "no norm"),
  analysis=Difference(),
  criterion=Effect(0.3),
  why="the entropy of ten equal classes falls by this if three are lost",
  unit="nats",
  form="+.2f",
  pilot=_PILOT,
  spread=0.19,
)
CLOSER = Claim(
  "closer",
  "with batch norm in the generator the Fréchet distance is below {margin}"
  " times that without a norm",
  source=_RADFORD,
  quantity=_DISTANCE,
  samples=("bn in G", "no norm"),
  analysis=Ratio(),
  criterion=Effect(0.8, none=1),
  why="a fifth is the least that one sees in a grid of samples",
  pilot=_PILOT,
  spread=0.7,
)
BOTH = Claim(
  "both_networks",
  "with batch norm in both networks the Fréchet distance is below {margin}"
  " times that with batch norm in the generator alone",
  source="Radford et al. 2015, section 3: the guideline for stable DCGANs",
  quantity=_DISTANCE,
  samples=("bn in G and D", "bn in G"),
  analysis=Ratio(),
  criterion=Effect(0.8, none=1),
  why="the margin of the other distances",
  pilot=_PILOT,
  spread=0.36,
)
OSCILLATES = Claim(
  "all_oscillate",
  "at the best learning rate of batch norm in hidden layers, samples of the"
  " same noise move at least {margin} times as much with batch norm in all"
  " layers",
  source=_RADFORD,
  quantity="movement in the last half of the training, geometric mean",
  samples=("bn in all layers", "bn in hidden layers"),
  analysis=Ratio(),
  criterion=Effect(1.5, none=1),
  why="half as much again; the rate is the same because movement grows with it",
  pilot=_PILOT,
  spread=0.25,
)
UNSTABLE = Claim(
  "all_unstable",
  "each at its best learning rate, the Fréchet distance varies at least"
  " {margin} times as much with batch norm in all layers as in hidden layers",
  source=_RADFORD,
  quantity="standard deviation over the last half of the training of the"
  " logarithm of the distance",
  samples=("bn in all layers", "bn in hidden layers"),
  analysis=Ratio(),
  criterion=Effect(1.5, none=1),
  why="the margin of the movement",
  pilot=_PILOT,
  spread=0.2,
)
LAST = Claim(
  "last_layer",
  "with batch norm on the discriminator's logits too, the Fréchet distance is"
  " more than {margin} times that of batch norm in hidden layers",
  source="ours: the two batches then have the same mean logit",
  quantity=_DISTANCE,
  samples=("with the last layer", "hidden layers"),
  analysis=Ratio(),
  criterion=Effect(5, none=1),
  why="so much is seen at once in a grid of samples",
  pilot=_PILOT,
  spread=0.23,
)
STATISTICS = Claim(
  "running_statistics",
  "with batch norm in both networks, the Fréchet distance with running"
  " statistics of the generator is within {margin} of that with re-estimated"
  " ones, as a ratio",
  source="ours",
  quantity="Fréchet distance after the last step",
  samples=("running", "re-estimated"),
  analysis=Ratio(),
  criterion=Within(0.1, of=1),
  why="a tenth cannot be seen",
  form=".3f",
  pilot=_PILOT,
  spread=0.025,
)
CONTROL = Claim(
  "control",
  "with batch norm in both networks, another training on the same images has a"
  " Fréchet distance within {margin} of the first, as a ratio",
  source="ours: the control",
  uncounted="a control",
  quantity=_DISTANCE,
  samples=("again", "first"),
  analysis=Ratio(),
  criterion=Within(0.25, of=1),
  why="the margin of the other distances: 1 / 0.8 = 1.25",
  pilot=_PILOT,
  spread=0.26,
)
CLAIMS = (
  COLLAPSE,
  CLOSER,
  BOTH,
  OSCILLATES,
  UNSTABLE,
  LAST,
  STATISTICS,
  CONTROL,
)


def distance(part: Parts) -> np.ndarray:
  """Returns the distance at the end, `[seeds]`."""
  return np.exp(np.log(late(part["distances"])).mean(axis=-1))


def movement(part: Parts) -> np.ndarray:
  """Returns the movement in the last half, `[seeds]`."""
  moved = np.maximum(late(part["moved"], 2), _STILL)
  return np.exp(np.log(moved).mean(axis=-1))


def variation(part: Parts) -> np.ndarray:
  """Returns how much the distance varies in the last half, `[seeds]`."""
  return np.log(late(part["distances"], 2)).std(axis=-1)


def judge(found: Mapping[str, Parts], run: Run) -> None:
  """Judges the claims.

  Args:
    found: The arms by name; see `training.train`, without an axis of rates.
    run: Gets the samples.
  """
  none, generator, both, every, last = (
    found[name] for name in ("none", "generator", "both", "all", "last")
  )
  entropies = (arm["entropies"].mean(axis=-1) for arm in (generator, none))
  run.judge(COLLAPSE, *entropies)
  run.judge(CLOSER, distance(generator), distance(none))
  run.judge(BOTH, distance(both), distance(generator))
  run.judge(OSCILLATES, movement(found[EQUAL]), movement(both))
  run.judge(UNSTABLE, variation(every), variation(both))
  run.judge(LAST, distance(last), distance(both))
  run.judge(STATISTICS, both["distances"][:, -1], both["reestimated"])
  run.judge(CONTROL, distance(found[AGAIN]), distance(both))
