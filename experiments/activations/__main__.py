"""What norms do to activations: saturation, dead units, drifting inputs.

    python -m experiments.activations

Three demonstrations that textbooks draw, measured. The net is an MLP with five
hidden layers of 100 units and sigmoid, tanh or ReLU, on images halved to 14x14,
trained with Adam for 300 batches of 64. Its norms, before the activations, are
none, batch norm and layer norm. About three minutes on two cores.

1. Scale of the inputs. The grey values from 0 to 1 are multiplied by 1, 16 and
   255, as if somebody forgot to divide bytes by 255. Measured before the
   training: the gradient of the first kernel. After it: the test error, the
   share of saturated units (sigmoid and tanh: the slope is below 5% of the
   steepest) and of dead units (ReLU: zero for all of 1,000 test images). With a
   norm, 16 is left out: the factor changes nothing, which is checked.
2. The linear regime. A sigmoid is nearly straight between -2 and 2. The share
   of its inputs beyond that is measured after the training, for batch norm with
   and without gain and bias.
3. A drifting input. In a trained tanh net, every unit of the first two layers
   gets a factor between 1/3 and 3, even as a logarithm. The later layers were
   trained for other inputs. Measured: how far the distribution of the inputs of
   the last hidden layer's activations moves, in their old standard deviations,
   and the test error after the change, with the old running statistics of batch
   norm and with re-estimated ones.

The criterion is the test error where a norm is to help training, and the
measured share or distance where the demonstration is about activations. All
shares are taken in evaluation mode, with re-estimated statistics.

A seed determines which images are for training, validation and test, the
initial weights, the order of the images, and the factors of the change. For
every arm the learning rate is chosen from six or more half decades by the
validation loss of other seeds.

Sources: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167. Section 2.1 of
saturation and drifting inputs; section 3: normalizing the inputs of a sigmoid
would constrain them to its linear regime, and gain and bias can undo that. Ba
et al., 2016, https://arxiv.org/abs/1607.06450, section 5.1, of what layer norm
does not see. Neither has numbers for this.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from absl import flags

from experiments.activations import claims, drawing
from experiments.activations.training import (
  CHANGED_LAYERS,
  Arm,
  at_init,
  scaled,
  train,
)
from experiments.lab import options, parsers, study, tuning
from experiments.lab.errors import RefusedError
from experiments.lab.options import option
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table

RATES = tuning.half_decades(-8, -3)
ACTIVATIONS = ("sigmoid", "tanh", "relu")
SCALES = {"none": (1.0, 16.0, 255.0), "bn": (1.0, 255.0), "ln": (1.0, 255.0)}
DRIFTING = "tanh"  # The net whose first layers are changed.
PLAIN = Arm("sigmoid", "bn", affine=False)


@dataclasses.dataclass(frozen=True)
class Config(options.TunedConfig):
  """The net, and how long to train."""

  hidden: tuple[int, ...] = option(
    (100,) * 5, "Width of each hidden layer, three or more.", parsers.COUNTS
  )
  steps: int = option(
    300, "Training steps.", flags.IntegerParser(lower_bound=1)
  )


def arms() -> list[Arm]:
  """Returns all arms."""
  return [
    *(
      Arm(activation, norm, scale)
      for activation in ACTIVATIONS
      for norm, scales in SCALES.items()
      for scale in scales
    ),
    PLAIN,
  ]


def measure(config: Config, run: Run) -> None:
  """Trains all arms, prints, judges and draws."""
  if len(config.hidden) <= CHANGED_LAYERS:
    raise RefusedError(
      f"The first {CHANGED_LAYERS} layers are changed, and later ones watched;"
      f" --hidden must have more than {CHANGED_LAYERS} widths, got"
      f" {len(config.hidden)}."
    )
  loaded = run.load_pool(config.dataset, halved=config.halve)
  pools = {scale: scaled(loaded, scale) for scale in SCALES["none"]}
  found: dict[Arm, Parts] = {}
  for arm in arms():
    pool = pools[arm.scale]
    first = functools.partial(
      at_init, arm, config.hidden, pool, config.seed_numbers
    )
    found[arm] = run.part(f"{arm}_init", first) | tuning.tuned(
      run,
      str(arm),
      functools.partial(
        train, arm, config.hidden, config.steps, config.gain, pool
      ),
      RATES,
      config,
    )
  _show(found)
  judge(found, run)
  drawing.scales(found, config.seeds, loaded.name, run)
  affine = PLAIN._replace(affine=True)
  regime = [
    ("bn with gain and bias", affine),
    ("bn without", PLAIN),
    ("none", affine._replace(norm="none")),
  ]
  drifting = [Arm(DRIFTING, norm) for norm in SCALES]
  drawing.changes(found, regime, drifting, loaded.name, run)


def judge(found: Mapping[Arm, Parts], run: Run) -> None:
  """Judges the claims, and checks the identities."""

  def error(arm: Arm, name: str = "reestimated") -> np.ndarray:
    return found[arm][name]

  for activation, claim in claims.SCALE.items():
    arm = Arm(activation, "none")
    run.judge(claim, error(arm._replace(scale=255.0)), error(arm))
  none, bn = (Arm("relu", norm, 255.0) for norm in ("none", "bn"))
  run.judge(
    claims.DEAD, *(100 * found[arm]["flat"].mean(1) for arm in (none, bn))
  )
  none, bn = (Arm("tanh", norm, 255.0) for norm in ("none", "bn"))
  run.judge(
    claims.SATURATED, *(100 * found[arm]["flat"][:, 0] for arm in (none, bn))
  )
  none, bn = (Arm("sigmoid", norm) for norm in ("none", "bn"))
  run.judge(
    claims.GRADIENT, *(found[arm]["gradient"][:, 0] for arm in (bn, none))
  )
  affine = PLAIN._replace(affine=True)
  both = affine, PLAIN
  run.judge(claims.BEYOND, *(found[arm]["beyond"].mean(1) for arm in both))
  run.judge(claims.AFFINE, *map(error, both))
  none, bn, ln = (Arm(DRIFTING, norm) for norm in SCALES)
  run.judge(claims.DRIFT, found[ln]["drift"], found[none]["drift"])
  run.judge(
    claims.STALE, error(bn, "changed"), error(bn, "changed_reestimated")
  )
  run.check(claims.UNMOVED, found[bn]["drift"].max())
  for norm, check in claims.UNSCALED.items():
    small, large = (
      found[Arm(DRIFTING, norm, scale)]["gradient"][:, 0]
      for scale in SCALES[norm]
    )
    # W of inputs sx is sW of x; its gradient is that of sW, times s.
    run.check(check, np.abs(large / small - 1).max())


def _show(found: Mapping[Arm, Parts]) -> None:
  print("\nScale of the inputs, and the linear regime of the sigmoid:")
  rows = [
    [
      arm.activation,
      arm.norm if arm.affine else f"{arm.norm}, no gain and bias",
      f"{arm.scale:g}",
      f"{part['rate']:.2g}",
      shown(part["gradient"][:, 0], ".2g"),
      *(shown(part[name], ".1f") for name in ("error", "reestimated")),
      *(shown(100 * part[name].mean(1), ".1f") for name in ("flat", "beyond")),
    ]
    for arm, part in found.items()
  ]
  headers = ["net", "norm", "times", "rate", "gradient at init"]
  headers += ["test error (%)", "re-estimated"]
  print(table(rows, [*headers, "saturated, dead (%)", "beyond 2 (%)"]))
  print("\nA drifting input:")
  names = ("drift", "reestimated", "changed", "changed_reestimated")
  rows = [
    [norm, *(shown(found[Arm(DRIFTING, norm)][name], ".2f") for name in names)]
    for norm in SCALES
  ]
  headers = ["norm", "distance", "test error (%)", "after the change"]
  print(table(rows, [*headers, "with re-estimated statistics"]))


STUDY = study.Study(
  "activations",
  __doc__,
  measure,
  Config(),
  claims.CLAIMS,
  claims.CHECKS,
  quick={"seeds": 2, "tuning_seeds": 1, "steps": 20, "hidden": (16,) * 3},
  full={"steps": 10_000, "halve": False},
  confirm={"seed": 100, "seeds": 20},
)

if __name__ == "__main__":
  study.main(STUDY)
