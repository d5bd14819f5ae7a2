"""What may be wrong with the batch norms of a Linen model."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.linen.module import InterceptorContext

from normjax import functional
from normjax.lifecycle.diagnosis import (
  FIELDS,
  Diagnosis,
  fields,
  norm_diagnosis,
)
from normjax.lifecycle.pooling import POOL, input_moments
from normjax.lifecycle.selection import Path, Which, name_of
from normjax.linen.calls import Variables, intercepted, of_arrays
from normjax.linen.pooling import with_pools
from normjax.linen.selection import (
  arguments,
  chosen_paths,
  is_batch_norm,
  norm_paths,
)


def diagnose(
  model: nn.Module,
  variables: Variables,
  *args: Any,
  which: Which = None,
  **options: Any,
) -> Diagnosis:
  """Returns what a batch tells of the batch norms of a model.

  Each batch norm of `normjax.linen` or `flax.linen`, and every other one that
  has `use_running_average` and keeps a `mean` and a `var` or `cov`, is compared
  with what it sees. Of a covariance only the variances are. Printed, it is a
  table with a line for each norm, and sentences of advice where something may
  be wrong:

  - *values*: of a channel, in this batch. Below 16, the mean is off by more
    than a quarter of a standard deviation, the variance by more than a third.
    With a batch for one of several devices, these are the values of a device.
  - *drift*: between batch and running mean, in running standard deviations
    (root mean square over channels). Above 0.5, which changes how many values
    pass a ReLU from half to two thirds, and above three standard errors.
  - *variance*: of the batch over the running one (median over channels). Beyond
    a factor of two, the output is larger or smaller by its root.
  - *constant*: channels with a variance below epsilon, for which epsilon
    decides what comes out.
  - *gain~0*: channels with a gain below 0.01. Others have about one.
  - *broken*: channels whose running statistics are not finite.

  Call the model as in evaluation to see what each norm gets there: the first
  norm with a drift is where to look, because all that follow it see its
  effects. Called as in training, each norm sees what it does in training.

  Args:
    model: A Linen module.
    variables: Its variables, with `batch_stats`.
    *args: A batch, as in `model.apply`.
    which: The norms to look at; None means all. As in `frozen`, but no class.
    **options: Options of `model.apply`, such as `train=False`, `mask` or
      `method`. Updates of `batch_stats` are dropped.

  Returns:
    A `Diagnosis`, in NumPy arrays. A model without `batch_stats` has no norms.

  Raises:
    TypeError: `which` is a class, or the variables are traced.
    ValueError: none is chosen, or a chosen norm does not keep a mean and a
      variance or covariance of its input, as norms that keep them for each
      domain or step.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from normjax.linen import BatchNorm, diagnose
    >>> model = nn.Sequential([
    ...   BatchNorm(use_running_average=True), nn.Dense(2)])
    >>> x = jnp.tile(jnp.array([[2.0], [4.0]]), (32, 2))
    >>> variables = model.init(jax.random.key(0), x)
    >>> variables["batch_stats"]["layers_0"]["mean"] = jnp.array([1.0, 3.0])
    >>> diagnosis = diagnose(model, variables, x)
    >>> for line in str(diagnosis).splitlines()[:2]:
    ...   print(line)
    norm      channels  values  drift  variance  constant  gain~0  broken
    layers_0         2      64   1.41      1.00         0       0       0
    >>> norm = diagnosis.norms["layers_0"]
    >>> print(norm.drift)
    [2. 0.]
    >>> print(norm.advice[0][:61])
    The mean of this batch is 1.41 running standard deviations fr
  """
  if not variables.get("batch_stats"):
    return Diagnosis({})
  if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(variables)):
    raise TypeError(
      "diagnose returns numbers and advice, so it is called outside of jax.jit"
      " and other transformations, got traced variables."
    )
  before = nn.meta.unbox(variables["batch_stats"])
  chosen = chosen_paths(before, which)
  stats = with_pools(before, chosen, [*FIELDS])

  def intercept(
    next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext
  ) -> Any:
    module = context.module
    if not is_batch_norm(context) or not module.has_variable(
      "batch_stats", POOL
    ):
      return next_fun(*args, **kwargs)
    given = arguments(context, args, kwargs).arguments
    pool: functional.Moments = module.get_variable("batch_stats", POOL)
    seen = input_moments(module, given, pool, name_of(module.path))
    merged = functional.merge_moments(pool, seen)
    module.put_variable("batch_stats", POOL, merged)
    for name, value in fields(module, pool.m2).items():
      module.put_variable("batch_stats", name, value)
    return next_fun(*args, **kwargs)

  apply, arrays = of_arrays(
    model, args, {**options, "mutable": ["batch_stats"]}
  )
  with intercepted(intercept):
    _, updates = jax.jit(apply)({**variables, "batch_stats": stats}, arrays)
  params = nn.meta.unbox(variables.get("params", {}))
  norms = [
    norm_diagnosis(
      path,
      _at(before, path),
      _at(updates["batch_stats"], path),
      _at(params, path).get("scale"),
    )
    for path in norm_paths(before)
    if path in chosen
  ]
  return Diagnosis({norm.path: norm for norm in norms})


def _at(tree: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
  """Returns the branch of a tree; an empty one if there is none."""
  for name in path:
    tree = tree.get(name, {})
  return tree
