"""What a norm does to an array, in numbers and figures.

    python -m experiments.internals
    python -m experiments.internals --norm=bn --shape=64,512

In a few seconds, this shows:

* mean and variance of every group before and after a norm; by default layer
  norm of four samples with ten values of mean 20 and standard deviation 5;
* the axes that each norm averages over, found by differentiating it;
* batch norm step by step in NumPy, compared with the layer, its running
  statistics over 50 steps, and the difference between training and evaluation.

There are no claims, only checks: each holds if its error is below its limit.
The unbiased variance that PyTorch's `var` prints is d / (d - 1) times the
biased one, 10/9 for ten values.

Sources: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 3; Ba
et al., 2016, https://arxiv.org/abs/1607.06450, sections 3 and 5.1; Zhang &
Sennrich, 2019, https://arxiv.org/abs/1910.07467.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

import normjax
from experiments.internals import checks, drawing
from experiments.internals.checks import EPSILON, MOMENTUM
from experiments.lab import options, parsers, study
from experiments.lab.claims import Below, Check
from experiments.lab.errors import RefusedError
from experiments.lab.options import option
from experiments.lab.probes import dependence, textbook
from experiments.lab.study import Run
from experiments.lab.tables import table

STEPS = 50  # Steps of the running statistics.
SHOWN = 8  # Maximum number of groups in a table.

IOFFE = "Ioffe & Szegedy 2015"
BA = "Ba et al. 2016"
CENTRED = Check(
  "centred",
  "after a norm other than rms, every group has mean 0",
  source=f"{IOFFE}, algorithm 1; {BA}, section 3",
  quantity="largest mean",
  criterion=Below(1e-6),
)
STANDARDIZED = Check(
  "standardized",
  "after a norm other than rms, every group has biased variance"
  " var / (var + epsilon)",
  source=f"{IOFFE}, algorithm 1; {BA}, section 3",
  quantity="largest error",
  criterion=Below(1e-5),
)
SQUARED = Check(
  "squared",
  "after rms, every group has mean square ms / (ms + epsilon)",
  source="Zhang & Sennrich 2019",
  quantity="largest error",
  criterion=Below(1e-5),
)
DIRECTION = Check(
  "direction",
  "layer norm ignores an affine map, and is sqrt(d) times a unit vector"
  " orthogonal to ones",
  source=f"{BA}, section 5.1, for the map",
  quantity="largest error",
  criterion=Below(1e-5),
)
NUMPY = Check(
  "numpy",
  "batch norm is what NumPy says, training and evaluation",
  source=f"{IOFFE}, algorithms 1 and 2",
  quantity="largest relative error",
  criterion=Below(1e-6),
)
DERIVATIVES = Check(
  "derivatives",
  "the textbook's five derivatives are right",
  source=f"{IOFFE}, section 3",
  quantity="largest relative error",
  criterion=Below(1e-5),
)
INVERSE = Check(
  "inverse",
  "scale = sqrt(var + epsilon), bias = mean give x back",
  source=f"{IOFFE}, section 3",
  quantity="largest relative error",
  criterion=Below(1e-6),
)
CHECKS = (
  *(CENTRED, STANDARDIZED, SQUARED),
  *(DIRECTION, NUMPY, DERIVATIVES, INVERSE),
)


@dataclasses.dataclass(frozen=True)
class Config(options.Config):
  """The array and the norms; only the first seed is used."""

  norm: tuple[str, ...] = option(
    ("ln",), "The norms to show, separated by commas.", parsers.NORMS
  )
  shape: tuple[int, ...] = option(
    (4, 10), "Shape of the array, channels last, such as 4,10.", parsers.COUNTS
  )
  mean: float = option(
    20.0, "Mean of the values before the norm.", parsers.NUMBER
  )
  std: float = option(
    5.0, "Standard deviation of the values before the norm.", parsers.POSITIVE
  )

  def unused(self) -> dict[str, str]:
    return {
      "seeds": "here: there is one array, of the first seed",
      "data_dir": "here: the values are drawn",
    }


def measure(config: Config, run: Run) -> None:
  """Shows and checks everything."""
  rng = np.random.default_rng(config.seed)
  x = rng.normal(config.mean, config.std, config.shape).astype(np.float32)
  norms = {name: _norm(name, x) for name in config.norm}
  for name, norm in norms.items():
    _show_norm(name, norm, x, run)
  _check_norms(norms, x, run)
  _check(DIRECTION, checks.layer_norm_errors(x), run)
  wide = rng.normal(config.mean, config.std, (64, 512)).astype(np.float32)
  drawing.quantiles(
    run, wide, np.asarray(normjax.layer_norm(jnp.asarray(wide)))
  )

  _show_axes(run)
  batches = rng.normal(config.mean, config.std, (STEPS, 32, 3))
  _show_batch_norm(batches.astype(np.float32), rng, run)


def _norm(name: str, x: np.ndarray) -> dependence.Norm:
  """Returns a norm for arrays like `x`."""
  try:
    return dependence.Norm(name, x.shape)
  except ValueError as error:
    raise RefusedError(f"--norm={name} with --shape: {error}") from error


def _show_norm(
  name: str, norm: dependence.Norm, x: np.ndarray, run: Run
) -> None:
  """Prints and draws the groups of one norm, before and after."""
  before, normed = norm.grouped(x), norm.grouped(np.asarray(norm(x)))
  print(f"\n{name}: {norm.describe()}")
  for parameter, value in norm.parameters.items():
    print(f"{parameter}: {value.size} times {value.flat[0]:g}")
  rows = [
    [index, *_statistics(old), *_statistics(new)]
    for index, (old, new) in enumerate(zip(before, normed, strict=True))
  ][:SHOWN]
  names = ("mean", "variance", "unbiased")
  after = (f"{name}, after" for name in names)
  print(table(rows, ["group", *names, *after]))
  drawing.histograms(run, name, before, normed)


def _check_norms(
  norms: Mapping[str, dependence.Norm], x: np.ndarray, run: Run
) -> None:
  """Checks the moments of the groups after each norm; the worst one counts."""
  errors = {
    name: checks.moment_errors(
      name, norm.epsilon, norm.grouped(x), norm.grouped(np.asarray(norm(x)))
    )
    for name, norm in norms.items()
    if name != "none"
  }
  squared = errors.pop("rms", None)
  if errors:
    means, variances = zip(*errors.values(), strict=True)
    run.check(CENTRED, max(means))
    run.check(STANDARDIZED, max(variances))
  if squared is not None:
    run.check(SQUARED, squared[1])


def _statistics(values: np.ndarray) -> list[str]:
  values = values.astype(np.float64)
  unbiased = values.var(ddof=1) if values.size > 1 else math.nan
  return [f"{values.mean():.6f}", f"{values.var():.6f}", f"{unbiased:.6f}"]


def _check(check: Check, errors: Mapping[str, float], run: Run) -> None:
  """Prints the errors and checks the largest one."""
  print()
  print(table([[k, f"{v:.1e}"] for k, v in errors.items()], ["of", "error"]))
  run.check(check, np.max([*errors.values()]))


def _show_axes(run: Run) -> None:
  """Prints which values share a mean, for vectors and for images."""
  rows = []
  for name in ("bn", "ln", "in", "gn"):
    for kind, shape in (("vectors", (8, 16)), ("images", (8, 4, 4, 16))):
      if name == "in" and kind == "vectors":
        continue  # Vectors have no positions to average over.
      norm = dependence.Norm(name, shape)
      rows.append(
        [
          name,
          kind,
          norm.describe(),
          sum(value.size for value in norm.parameters.values()),
        ]
      )
  print()
  print(table(rows, ["norm", "input", "averages over", "parameters"]))
  drawing.cubes(run)


def _show_batch_norm(
  batches: np.ndarray, rng: np.random.Generator, run: Run
) -> None:
  scale, bias = rng.normal(1, 0.3, (2, 3)).astype(np.float32)
  gradient = rng.normal(size=batches.shape[1:]).astype(np.float32)
  steps = textbook.forward(batches[0], scale, bias, EPSILON)
  print("\nBatch norm of one batch, first example, step by step:")
  rows = [
    ["x", *batches[0, 0]],
    ["batch mean", *steps.mean],
    ["batch variance", *steps.var],
    ["normalized", *steps.normalized[0]],
    ["scaled", *steps.scaled[0]],
    ["scaled and shifted", *steps.output[0]],
  ]
  print(table(rows, ["step", "feature 1", "feature 2", "feature 3"]))
  errors = checks.batch_norm_errors(batches, scale, bias, gradient)
  _check(NUMPY, errors["forward"], run)
  _check(DERIVATIVES, errors["derivatives"], run)
  _check(INVERSE, errors["inverse"], run)
  drawing.batch_norm(
    run, steps, batches, textbook.running(batches, MOMENTUM), scale, bias
  )


STUDY = study.Study(
  "internals",
  __doc__,
  measure,
  Config(),
  checks=CHECKS,
  confirm={"norm": ("ln", "rms")},  # Between them, they have all checks.
)

if __name__ == "__main__":
  study.main(STUDY)
