"""Deep nets of sigmoids: training, drift of activations, vanishing gradients.

    python -m experiments.deep_sigmoid
    python -m experiments.deep_sigmoid --depths=3,8,20 --steps=2500

The net of the paper's figure 1: layers of 100 sigmoids on binarized images,
batches of 60. Here the depths are 3 and 8, with SGD at 0.1 and 1 and Adam at
0.001 and 0.003, for 1,000 steps, on images halved to 14x14. About two minutes
on two cores. In addition, for nets of depth 20 before training, a figure shows
the gradient norm and the spread of the activations' inputs by layer, for
sigmoids and for ReLUs.

Claims are judged on test errors in percent, with paired seeds. The best rate
has the lowest mean training loss. There is no claim about the final errors at
the first depth. Drift is |change of a unit's median between probes| divided by
the distance between its 15th and 85th percentiles, averaged over units and
probes, at each arm's best rate of SGD.

Source: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, sections 4.1
and 4.2.2 (a sigmoid Inception: 69.8 % with batch norm, chance without).
"""

import functools
from collections.abc import Mapping

import jax.numpy as jnp

from experiments.deep_sigmoid import drawing
from experiments.deep_sigmoid.training import RATES, Config, best, drift, train
from experiments.lab import study
from experiments.lab.claims import Above, Below, Claim
from experiments.lab.statistics import interval, paired_ratio, shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table

_PERCENT = {"source": "Ioffe & Szegedy 2015", "unit": "%", "form": ".1f"}
_RATIO = {"source": "Ioffe & Szegedy 2015", "form": ".2f"}
TRAINS = Claim(
  "SGD trains {depth} layers of sigmoids with batch norm",
  quantity="error at the best rate",
  criterion=Below(15),
  **_PERCENT,
)
FAILS = Claim(
  "SGD does not train {depth} layers of sigmoids without a norm",
  quantity="smallest error over the rates",
  criterion=Above(80),
  **_PERCENT,
)
FASTER = Claim(
  "batch norm is faster at depth {depth} ({how})",
  quantity="bn / none of errors, halfway,",
  criterion=Below(0.5),
  **_RATIO,
)
CALMER = Claim(
  "inputs of the last of {depth} layers drift less with batch norm",
  quantity="bn / none of drifts",
  criterion=Below(0.5),
  **_RATIO,
)
CLAIMS = (TRAINS, FAILS, FASTER, CALMER)

QUICK = {
  "seeds": 2,
  "depths": (2, 4),
  "steps": 60,
  "probes": 4,
  "signal_depth": 6,
}
FULL = {"steps": 50_000, "probes": 100, "halve": False}


def measure(config: Config, run: Run) -> None:
  """Trains the grid, prints, judges and draws."""
  images = run.load_images(config.dataset, test=2000, halved=config.halve)
  grey = images.prepare
  images = images._replace(
    prepare=lambda x: (grey(x) > 0.5).astype(jnp.float32)
  )
  arms = {
    (norm, depth, optimizer): run.part(
      f"{norm}_{depth}_{optimizer}",
      functools.partial(train, norm, depth, optimizer, config, images),
    )
    for depth in config.depths
    for norm in config.norm
    for optimizer in RATES
  }
  half = config.probes // 2 - 1
  rows = []
  for (norm, depth, optimizer), arm in arms.items():
    for rate, error, again, inputs in zip(
      RATES[optimizer],
      arm["error"],
      arm["reestimated"],
      arm["inputs"],
      strict=True,
    ):
      cells = (error[:, half], error[:, -1], again)
      rows.append(
        [depth, norm, optimizer, rate]
        + [shown(values, ".1f") for values in cells]
        + [shown(drift(inputs), ".2f")]
      )
  print(
    table(
      rows,
      [
        "depth", "norm", "optimizer", "rate", "halfway (%)",
        "error (%)", "re-estimated (%)", "drift",
      ],
    )
  )  # fmt: skip
  judge(arms, config, run)
  drawing.training(arms, config, images.name, run)
  drawing.before_training(config, images, run)


def judge(
  arms: Mapping[tuple[str, int, str], Parts], config: Config, run: Run
) -> None:
  """Judges batch norm against none, if both were trained."""
  if not {"none", "bn"} <= set(config.norm):
    return
  first, last = config.depths[0], config.depths[-1]
  bn, none = (arms[norm, last, "sgd"] for norm in ("bn", "none"))
  run.judge(TRAINS, interval(bn["error"][best(bn), :, -1]), depth=last)
  run.judge(FAILS, interval(none["error"][..., -1].min(axis=0)), depth=last)
  bn, none = (arms[norm, first, "sgd"] for norm in ("bn", "none"))
  half = config.probes // 2 - 1
  for how, rates in (
    ("rate 0.1", (0, 0)),
    ("each at its best rate", (best(bn, half), best(none, half))),
  ):
    ratio = paired_ratio(
      bn["error"][rates[0], :, half], none["error"][rates[1], :, half]
    )
    run.judge(FASTER, ratio, depth=first, how=how)
  ratio = paired_ratio(
    drift(bn["inputs"][best(bn)]), drift(none["inputs"][best(none)])
  )
  run.judge(CALMER, ratio, depth=first)


if __name__ == "__main__":
  study.main("deep_sigmoid", measure, Config(), CLAIMS, quick=QUICK, full=FULL)
