"""How far normalization layers are from float64, at small and large means.

    python -m benchmarks.exactness [--out=exactness.json]

Every library gets the same float32 input of standard deviation one, the same
epsilon, and otherwise its own defaults. The reference is plain NumPy in
float64 on the same input. Libraries that are not installed are left out.
`pip install -e ".[benchmarks]"` installs them.
"""

import functools
import importlib.metadata
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import normjax
from experiments.lab import tables
from experiments.lab.runs import files

MEANS = (0.0, 1e2, 1e3, 1e4, 1e5, 1e6)
EPSILON = 1e-6
GROUPS = 8

# The largest errors that normjax promises, for outputs and for gradients.
OUTPUT_TOLERANCE = 2e-6
GRADIENT_TOLERANCE = 1e-5

# Takes `[batch, ..., channels]` in float32, returns the same shape.
Norm = Callable[[np.ndarray], np.ndarray]


class Case(NamedTuple):
  """One table: an operation, and the shape of its input."""

  title: str
  operation: str
  shape: tuple[int, ...]


CASES = (
  Case("Layer norm, rows of 1,024", "layer_norm", (64, 1024)),
  Case("Layer norm, rows of 65,536", "layer_norm", (4, 65536)),
  Case("RMS norm, rows of 1,024", "rms_norm", (64, 1024)),
  Case("Batch norm, 65,536 rows", "batch_norm", (65536, 16)),
  Case("Batch norm, images 32 x 14 x 14", "batch_norm", (32, 14, 14, 64)),
  Case("Group norm, images 32 x 32", "group_norm", (8, 32, 32, 64)),
  Case("Instance norm, images 32 x 32", "instance_norm", (8, 32, 32, 64)),
  Case("Layer norm, gradient", "layer_norm_gradient", (64, 1024)),
)


# References in float64.


def standardized64(x: np.ndarray, axes: int | tuple[int, ...]) -> np.ndarray:
  """Returns `(x - mean) / sqrt(var + EPSILON)` over `axes`, in float64."""
  x = np.asarray(x, np.float64)
  centered = x - x.mean(axes, keepdims=True)
  variance = np.square(centered).mean(axes, keepdims=True)
  return centered / np.sqrt(variance + EPSILON)


def _rms_norm64(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + EPSILON)


def _group_norm64(x: np.ndarray) -> np.ndarray:
  grouped = x.reshape(x.shape[0], -1, GROUPS, x.shape[-1] // GROUPS)
  return standardized64(grouped, (1, 3)).reshape(x.shape)


def _layer_norm_gradient64(x: np.ndarray) -> np.ndarray:
  cotangent = _cotangent(x.shape).astype(np.float64)
  y = standardized64(x, -1)
  deviation = np.sqrt(
    np.asarray(x, np.float64).var(-1, keepdims=True) + EPSILON
  )
  projected = (
    cotangent
    - cotangent.mean(-1, keepdims=True)
    - y * (cotangent * y).mean(-1, keepdims=True)
  )
  return projected / deviation


REFERENCES: dict[str, Norm] = {
  "layer_norm": functools.partial(standardized64, axes=-1),
  "rms_norm": _rms_norm64,
  "batch_norm": lambda x: standardized64(x, tuple(range(x.ndim - 1))),
  "group_norm": _group_norm64,
  "instance_norm": lambda x: standardized64(x, tuple(range(1, x.ndim - 1))),
  "layer_norm_gradient": _layer_norm_gradient64,
}


def make_input(shape: tuple[int, ...], mean: float) -> np.ndarray:
  """Returns normal values of standard deviation one, rounded to float32."""
  values = np.random.default_rng(0).standard_normal(shape) + mean
  return values.astype(np.float32)


def _cotangent(shape: tuple[int, ...]) -> np.ndarray:
  return np.random.default_rng(1).standard_normal(shape, np.float32)


# The libraries. Each function returns the operations that its library has, with
# default options except for epsilon. It raises ImportError if the library is
# not installed.


def _jax_norms(norms: Mapping[str, Callable]) -> dict[str, Norm]:
  """Compiles functions of JAX arrays, and adds the gradient of layer norm."""

  layer_norm = norms["layer_norm"]

  def gradient(x: jax.Array) -> jax.Array:
    _, vjp = jax.vjp(layer_norm, x)
    return vjp(jnp.asarray(_cotangent(x.shape)))[0]

  def compiled(norm: Callable) -> Norm:
    jitted = jax.jit(norm)
    return lambda x: np.asarray(jitted(x))

  norms = {**norms, "layer_norm_gradient": gradient}
  return {name: compiled(norm) for name, norm in norms.items()}


def _normjax() -> dict[str, Norm]:
  def batch_norm(x: jax.Array) -> jax.Array:
    y, _ = normjax.batch_norm(x, use_running_average=False, epsilon=EPSILON)
    return y

  return _jax_norms(
    {
      "layer_norm": functools.partial(normjax.layer_norm, epsilon=EPSILON),
      "rms_norm": functools.partial(normjax.rms_norm, epsilon=EPSILON),
      "batch_norm": batch_norm,
      "group_norm": functools.partial(
        normjax.group_norm, num_groups=GROUPS, epsilon=EPSILON
      ),
      "instance_norm": functools.partial(
        normjax.instance_norm, epsilon=EPSILON
      ),
    }
  )


def _flax(**options: Any) -> dict[str, Norm]:
  from flax import linen as nn

  def norm(module: nn.Module) -> Callable[[jax.Array], jax.Array]:
    def call(x: jax.Array) -> jax.Array:
      y, _ = module.init_with_output(jax.random.key(0), x)
      return y

    return call

  options["epsilon"] = EPSILON
  return _jax_norms(
    {
      "layer_norm": norm(nn.LayerNorm(**options)),
      "rms_norm": norm(nn.RMSNorm(**options)),
      "batch_norm": norm(nn.BatchNorm(use_running_average=False, **options)),
      "group_norm": norm(nn.GroupNorm(num_groups=GROUPS, **options)),
      "instance_norm": norm(nn.InstanceNorm(**options)),
    }
  )


def _flax_two_passes() -> dict[str, Norm]:
  """Flax's more exact setting, which is not its default."""
  norms = _flax(use_fast_variance=False)
  del norms["rms_norm"]  # Has no variance, so the option changes nothing.
  return norms


def _haiku() -> dict[str, Norm]:
  import haiku as hk

  def norm(
    make: Callable[[], hk.Module], **options: Any
  ) -> Callable[[jax.Array], jax.Array]:
    def call(x: jax.Array) -> jax.Array:
      pure = hk.transform_with_state(lambda x: make()(x, **options))
      params, state = pure.init(None, x)
      y, _ = pure.apply(params, state, None, x)
      return y

    return call

  return _jax_norms(
    {
      "layer_norm": norm(lambda: hk.LayerNorm(-1, True, True, EPSILON)),
      "rms_norm": norm(lambda: hk.RMSNorm(-1, EPSILON)),
      "batch_norm": norm(
        lambda: hk.BatchNorm(True, True, 0.99, EPSILON), is_training=True
      ),
      "group_norm": norm(lambda: hk.GroupNorm(GROUPS, eps=EPSILON)),
      "instance_norm": norm(lambda: hk.InstanceNorm(True, True, EPSILON)),
    }
  )


def _equinox() -> dict[str, Norm]:
  import equinox as eqx

  def layer_norm(x: jax.Array) -> jax.Array:
    return jax.vmap(eqx.nn.LayerNorm(x.shape[-1], EPSILON))(x)

  def rms_norm(x: jax.Array) -> jax.Array:
    return jax.vmap(eqx.nn.RMSNorm(x.shape[-1], EPSILON))(x)

  def batch_norm(x: jax.Array) -> jax.Array:
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
      x.shape[-1], "batch", EPSILON, mode="batch"
    )
    y, _ = jax.vmap(
      norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
    )(jnp.moveaxis(x, -1, 1), state)
    return jnp.moveaxis(y, 1, -1)

  def group_norm(x: jax.Array) -> jax.Array:
    norm = eqx.nn.GroupNorm(GROUPS, x.shape[-1], EPSILON)
    return jnp.moveaxis(jax.vmap(norm)(jnp.moveaxis(x, -1, 1)), 1, -1)

  return _jax_norms(
    {
      "layer_norm": layer_norm,
      "rms_norm": rms_norm,
      "batch_norm": batch_norm,
      "group_norm": group_norm,
    }
  )


def _torch() -> dict[str, Norm]:
  import torch
  from torch.nn import functional as F  # noqa: N812  The name everybody uses.

  def channels_first(norm: Callable) -> Norm:
    def call(x: np.ndarray) -> np.ndarray:
      channels_second = np.ascontiguousarray(np.moveaxis(x, -1, 1))
      y = norm(torch.from_numpy(channels_second))
      return np.moveaxis(y.numpy(), 1, -1)

    return call

  def layer_norm(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)

  def gradient(x: np.ndarray) -> np.ndarray:
    inputs = torch.from_numpy(x).requires_grad_()
    layer_norm(inputs).backward(torch.from_numpy(_cotangent(x.shape)))
    return inputs.grad.numpy()

  return {
    "layer_norm": lambda x: layer_norm(torch.from_numpy(x)).numpy(),
    "rms_norm": lambda x: F.rms_norm(
      torch.from_numpy(x), x.shape[-1:], eps=EPSILON
    ).numpy(),
    "batch_norm": channels_first(
      lambda x: F.batch_norm(x, None, None, training=True, eps=EPSILON)
    ),
    "group_norm": channels_first(
      lambda x: F.group_norm(x, GROUPS, eps=EPSILON)
    ),
    "instance_norm": channels_first(lambda x: F.instance_norm(x, eps=EPSILON)),
    "layer_norm_gradient": gradient,
  }


# By the name in the tables: the package's name on PyPI, and its operations.
LIBRARIES: dict[str, tuple[str, Callable[[], dict[str, Norm]]]] = {
  "normjax": ("normjax", _normjax),
  "flax.linen": ("flax", _flax),
  "flax.linen, two passes": ("flax", _flax_two_passes),
  "Haiku": ("dm-haiku", _haiku),
  "Equinox": ("equinox", _equinox),
  "PyTorch": ("torch", _torch),
}


# Measuring and reporting.


def error(case: Case, norm: Norm, mean: float) -> float:
  """Returns the largest deviation from float64; NaN if the output has a NaN.

  Args:
    case: The operation, and the shape of its input.
    norm: The implementation to test.
    mean: The mean of the input.

  Returns:
    For outputs, `|y - y64| / max(1, |y64|)`; for gradients, `|dx - dx64|`
    relative to the largest `|dx64|`.
  """
  x = make_input(case.shape, mean)
  expected = REFERENCES[case.operation](x)
  actual = np.asarray(norm(x), np.float64)
  if actual.shape != expected.shape:
    raise ValueError(
      f"{case.title}: expected shape {expected.shape}, got {actual.shape}."
    )
  size = np.abs(expected)
  unit = size.max() if case.operation.endswith("gradient") else size.clip(1)
  return float((np.abs(actual - expected) / unit).max())


def tolerance(case: Case) -> float:
  if case.operation.endswith("gradient"):
    return GRADIENT_TOLERANCE
  return OUTPUT_TOLERANCE


def within(case: Case, errors: Iterable[float]) -> bool:
  """Returns whether all errors are within the tolerance; NaN is not."""
  return all(value <= tolerance(case) for value in errors)


def table(case: Case, errors: Mapping[str, Mapping[float, float]]) -> str:
  """Returns a Markdown table of `{library: {mean: error}}`.

  Errors above the tolerance are in bold.
  """

  def cell(value: float) -> str:
    text = f"{value:.1e}" if math.isfinite(value) else f"{value}"
    return text if within(case, [value]) else f"**{text}**"

  rows = [
    [f"{mean:g}", *(cell(values[mean]) for values in errors.values())]
    for mean in MEANS
  ]
  return tables.table(rows, ["mean", *errors])


def run(out: str | None) -> int:
  """Prints all tables and returns 1 if normjax exceeds a tolerance, else 0.

  Args:
    out: JSON file for all numbers, or None.
  """
  norms, packages = {}, {"jax", "jaxlib"}
  for name, (package, load) in LIBRARIES.items():
    try:
      norms[name] = load()
    except ImportError as missing:
      print(f"{name} is left out: {missing}. Try `pip install {package}`.\n")
    else:
      packages.add(package)
  versions = {
    package: importlib.metadata.version(package)
    for package in sorted(packages - {"normjax"})
  }
  print(
    f"Largest error against float64, epsilon {EPSILON:g}; bold where it is more"
    f" than {OUTPUT_TOLERANCE:g} ({GRADIENT_TOLERANCE:g} for gradients)."
  )
  print(", ".join(f"{name} {number}" for name, number in versions.items()))
  results = {}
  for case in CASES:
    errors = {
      name: {
        mean: error(case, operations[case.operation], mean) for mean in MEANS
      }
      for name, operations in norms.items()
      if case.operation in operations
    }
    results[case.title] = errors
    print(f"\n{case.title}\n\n{table(case, errors)}", flush=True)

  if out is not None:
    files.write_json(
      out,
      {"epsilon": EPSILON, "versions": versions, "errors": results},
    )
  print()
  failed = False
  for case in CASES:
    ours = list(results[case.title]["normjax"].values())
    answer = "yes" if within(case, ours) else "NO"
    failed |= not within(case, ours)
    print(
      f"normjax within {tolerance(case):g}: {answer}, at most"
      f" {max(ours):.1e}  ({case.title})"
    )
  print(f"Every normjax row is exact: {'NO' if failed else 'yes'}.")
  return int(failed)


def main(argv: list[str], out: str | None) -> int:
  if len(argv) > 1:
    sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
  return run(out)


if __name__ == "__main__":
  # Defined here, because other commands define a flag of this name too.
  out_flag = flags.DEFINE_string("out", None, "JSON file for all numbers.")
  app.run(lambda argv: main(argv, out_flag.value))
