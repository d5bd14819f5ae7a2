"""What a norm does to an array, in numbers and pictures.

    python -m experiments.internals
    python -m experiments.internals --norm=bn --shape=64,512

Shows, in seconds: mean and variance of every group before and after a norm, by
default layer norm of four samples with ten values of mean 20 and standard
deviation 5; the axes that each norm averages over, found by differentiating
it; and batch norm step by step in NumPy beside the layer, with its running
statistics over 50 steps and the difference between training and evaluation.

Exact claims, without seeds: CONFIRMED where the error is below the tolerance.
  1. After a norm, every group has mean 0 (1e-6) and biased variance
     var / (var + epsilon) (1e-5), RMS norm mean square 1. The unbiased
     variance that PyTorch's `var` prints is d / (d - 1), 10/9 for ten values.
  2. Layer norm ignores an affine map: LN(a x + b) = LN(x) (1e-5), and is
     sqrt(d) times a unit vector orthogonal to the vector of ones (1e-5).
  3. Batch norm is what NumPy says, step by step in float64 (1e-6 relative),
     and so are its running statistics and its evaluation.
  4. The textbook's five derivatives, by x, scale, bias, mean and variance, are
     those of automatic differentiation (1e-5 relative).
  5. scale = sqrt(var + epsilon) with bias = mean gives the input back (1e-6
     relative).

Sources: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, algorithm 1
and section 3; Ba et al., 2016, https://arxiv.org/abs/1607.06450, section 5.1.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

import normjax
from experiments.lab import dependence, internals_figures, study, textbook
from experiments.lab.reporting import Verdict, table
from experiments.lab.study import Run, option
from normjax.linen import BatchNorm

IOFFE = "Ioffe & Szegedy 2015"
BA = "Ba et al. 2016"
EPSILON = 1e-5  # Of batch norm, here as in textbooks.
MOMENTUM = 0.9
STEPS = 50  # Of the running statistics.
SHOWN = 8  # Groups in a table.


@dataclasses.dataclass(frozen=True)
class Config(study.Config):
  """The array and the norms to look at; of the seeds only the first counts."""

  norm: tuple[str, ...] = option(
    ("ln",), "The norms to look at, with commas in between.", study.NORMS
  )
  shape: tuple[int, ...] = option(
    (4, 10), "Of the array, channels last, with commas.", study.COUNTS
  )
  mean: float = option(20.0, "Of the values before.", study.NUMBER)
  std: float = option(5.0, "Of the values before.", study.POSITIVE)


def measure(config: Config, run: Run) -> None:
  """Shows and checks everything."""
  rng = np.random.default_rng(config.seed)
  x = rng.normal(config.mean, config.std, config.shape).astype(np.float32)
  for name in config.norm:
    _show_norm(name, x, run)
  _judge_layer_norm(x, run)
  wide = rng.normal(config.mean, config.std, (64, 512)).astype(np.float32)
  internals_figures.quantiles(
    run, wide, np.asarray(normjax.layer_norm(jnp.asarray(wide)))
  )

  _show_axes(run)
  batches = rng.normal(config.mean, config.std, (STEPS, 32, 3))
  _show_batch_norm(batches.astype(np.float32), rng, run)


def _show_norm(name: str, x: np.ndarray, run: Run) -> None:
  """Prints and judges the groups of one norm, before and after."""
  try:
    norm = dependence.Norm(name, x.shape)
  except ValueError as error:
    raise study.RefusedError(f"--norm={name} with --shape: {error}") from error
  y = np.asarray(norm(x))
  before, after = norm.grouped(x), norm.grouped(y)
  count = before.shape[1]
  print(f"\n{name}: {norm.describe()}")
  for parameter, value in norm.parameters.items():
    print(f"{parameter}: {value.size} times {value.flat[0]:g}")
  rows = [
    [index, *_statistics(old), *_statistics(new)]
    for index, (old, new) in enumerate(zip(before, after, strict=True))
  ][:SHOWN]
  names = ("mean", "biased var", "unbiased var")
  print(
    table(
      rows,
      [
        "group",
        *(f"{n} before" for n in names),
        *(f"{n} after" for n in names),
      ],
    )
  )
  internals_figures.histograms(run, name, before, after)
  if name == "none":
    return
  errors = moment_errors(name, norm.epsilon, before, after)
  what = (
    "mean square 1"
    if name == "rms"
    else "mean 0 and biased variance 1"
    f" (the unbiased one is {count}/{count - 1})"
  )
  passed = errors[0] < 1e-6 and errors[1] < 1e-5
  run.judge(
    f"after {name}, every group has {what}",
    f"errors {errors[0]:.0e} and {errors[1]:.0e}",
    Verdict.CONFIRMED if passed else Verdict.REFUTED,
    criterion="mean within 1e-6, variance within 1e-5",
    source=IOFFE if name == "bn" else BA,
  )


def _statistics(values: np.ndarray) -> list[str]:
  values = values.astype(np.float64)
  unbiased = values.var(ddof=1) if values.size > 1 else math.nan
  return [f"{values.mean():.6f}", f"{values.var():.6f}", f"{unbiased:.6f}"]


def moment_errors(
  name: str, epsilon: float, before: np.ndarray, after: np.ndarray
) -> tuple[float, float]:
  """Returns the largest errors of mean and variance, groups `[n, values]`."""
  before, after = before.astype(np.float64), after.astype(np.float64)
  centred = name != "rms"
  square = before.var(axis=1) if centred else (before**2).mean(axis=1)
  result = after.var(axis=1) if centred else (after**2).mean(axis=1)
  mean = np.abs(after.mean(axis=1)).max() if centred else 0.0
  return mean, np.abs(result - square / (square + epsilon)).max()


def layer_norm_errors(x: np.ndarray) -> dict[str, float]:
  """Returns errors of what layer norm is said to be, rows of `x` its groups."""
  y = np.asarray(normjax.layer_norm(jnp.asarray(x), epsilon=1e-12), np.float64)
  affine = normjax.layer_norm(jnp.asarray(3 * x - 7), epsilon=1e-12)
  size = x.shape[-1]
  length = np.linalg.norm(y, axis=-1)
  return {
    "LN(a x + b) = LN(x)": np.abs(affine - y).max(),
    "length sqrt(d)": np.abs(length / math.sqrt(size) - 1).max(),
    "orthogonal to ones": np.abs(y.sum(axis=-1) / math.sqrt(size)).max()
    / math.sqrt(size),
  }


def _judge_layer_norm(x: np.ndarray, run: Run) -> None:
  _judge_exact(
    run,
    "layer norm ignores an affine map, and is sqrt(d) times a unit vector"
    " orthogonal to ones",
    layer_norm_errors(x),
    1e-5,
    BA,
  )


def batch_norm_errors(
  batches: np.ndarray,
  scale: np.ndarray,
  bias: np.ndarray,
  gradient: np.ndarray,
) -> dict[str, dict[str, float]]:
  """Returns relative errors of the layer against NumPy.

  Args:
    batches: `[steps, batch, features]`; single values use the first batch.
    scale, bias: `[features]`.
    gradient: Of the loss by the output, `[batch, features]`.

  Returns:
    Errors by name, for the forward pass, the derivatives and the inverse.
  """
  x = batches[0]
  steps = textbook.forward(x, scale, bias, EPSILON)
  of = normjax.moments(x, 0)
  normalized = normjax.standardize(x, 0, epsilon=EPSILON)
  layer = BatchNorm(momentum=MOMENTUM, epsilon=EPSILON)
  variables = {
    "params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)},
    "batch_stats": {"mean": jnp.zeros(x.shape[1]), "var": jnp.ones(x.shape[1])},
  }
  means, variances = [], []
  train = jax.jit(
    lambda variables, x: layer.apply(
      variables, x, use_running_average=False, mutable=["batch_stats"]
    )
  )
  output, _ = train(variables, x)
  for batch in batches:
    _, updated = train(variables, batch)
    variables |= updated
    means.append(variables["batch_stats"]["mean"])
    variances.append(variables["batch_stats"]["var"])
  running = textbook.running(batches, MOMENTUM)
  evaluated = layer.apply(variables, x, use_running_average=True)
  by_running = (x - running[0][-1]) / np.sqrt(running[1][-1] + EPSILON)
  forward = {
    "mean": _relative(of.mean, steps.mean),
    "var": _relative(of.var, steps.var),
    "normalized": _relative(normalized, steps.normalized),
    "output": _relative(output, steps.output),
    "running mean": _relative(means, running[0]),
    "running var": _relative(variances, running[1]),
    "evaluation": _relative(evaluated, scale * by_running + bias),
  }

  formulas = textbook.backward(x, scale, EPSILON, gradient)
  _, by_inputs = jax.vjp(
    lambda x, scale, bias: normjax.batch_norm(
      x, scale, bias, use_running_average=False, epsilon=EPSILON
    )[0],
    *(jnp.asarray(value) for value in (x, scale, bias)),
  )

  def given_statistics(mean: jax.Array, var: jax.Array) -> jax.Array:
    centred = x - mean[None]
    return centred * (scale / jnp.sqrt(var + EPSILON))[None] + bias[None]

  _, by_statistics = jax.vjp(
    given_statistics,
    *(jnp.asarray(value, jnp.float32) for value in (steps.mean, steps.var)),
  )
  automatic = (
    by_inputs(jnp.asarray(gradient)),
    by_statistics(jnp.asarray(gradient)),
  )
  names = ("x", "scale", "bias", "mean", "var")
  derivatives = {
    name: _relative(found, getattr(formulas, name))
    for name, found in zip(names, (*automatic[0], *automatic[1]), strict=True)
  }

  back, _ = normjax.batch_norm(
    x,
    jnp.asarray(np.sqrt(steps.var + EPSILON), jnp.float32),
    jnp.asarray(steps.mean, jnp.float32),
    use_running_average=False,
    epsilon=EPSILON,
  )
  return {
    "forward": forward,
    "derivatives": derivatives,
    "inverse": {"input": _relative(back, x)},
  }


def _relative(found: object, expected: np.ndarray) -> float:
  """Returns the largest error, relative to the largest value."""
  error = np.abs(np.asarray(found, np.float64) - expected).max()
  return float(error / np.abs(expected).max())


def _judge_exact(
  run: Run, claim: str, errors: dict[str, float], tolerance: float, source: str
) -> None:
  print()
  print(table([[k, f"{v:.1e}"] for k, v in errors.items()], ["of", "error"]))
  worst = max(errors.values())
  run.judge(
    claim,
    f"{worst:.0e}",
    Verdict.CONFIRMED if worst < tolerance else Verdict.REFUTED,
    criterion=f"largest error below {tolerance:.0e}",
    source=source,
  )


def _show_axes(run: Run) -> None:
  """Prints which values share a mean, for vectors and for images."""
  rows = []
  for name in ("bn", "ln", "in", "gn"):
    for kind, shape in (("vectors", (8, 16)), ("images", (8, 4, 4, 16))):
      if name == "in" and kind == "vectors":
        continue  # There is nothing to average over.
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
  internals_figures.cubes(run)


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
  errors = batch_norm_errors(batches, scale, bias, gradient)
  for claim, part, tolerance in (
    ("batch norm is what NumPy says, training and evaluation", "forward", 1e-6),
    ("the textbook's five derivatives are right", "derivatives", 1e-5),
    ("scale = sqrt(var + epsilon), bias = mean give x back", "inverse", 1e-6),
  ):
    _judge_exact(run, claim, errors[part], tolerance, IOFFE)
  internals_figures.batch_norm(
    run, steps, batches, textbook.running(batches, MOMENTUM), scale, bias
  )


if __name__ == "__main__":
  study.main("internals", measure, Config(), quick={})
