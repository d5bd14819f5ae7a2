"""Batch norms folded into the layers before them, for inference."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.errors import ModifyScopeVariableError
from flax.linen.module import InterceptorContext

from normjax import functional
from normjax.lifecycle.folding import FoldedNorm, folded_norm, refusal
from normjax.lifecycle.pairs import find_pairs
from normjax.lifecycle.selection import (
  Path,
  Which,
  canonical,
  check_choice,
  listed,
  name_of,
  selects,
  selects_path,
)
from normjax.linen.calls import Variables, called, constants, intercepted
from normjax.linen.pairs import KINDS, trace
from normjax.linen.selection import arguments, field_set, norm_paths


@dataclasses.dataclass(frozen=True)
class FoldedModel:
  """A model in which batch norms are parts of the layers before them.

  It is used as the model itself: `folded.apply(variables, x, ...)`, with the
  variables that `fold` returned with it, also under `jax.jit` and
  `jax.export`. The norms are not called.

  Attributes:
    model: The model, unchanged.
    norms: The norms that are folded.
    kept: Paths of other chosen norms, each with the reason why it is not
      folded; see `partial` of `fold`.
    unfolded: Shapes and dtypes of the variables before they were folded.
  """

  model: nn.Module
  norms: tuple[FoldedNorm, ...]
  kept: tuple[tuple[str, str], ...] = ()
  unfolded: Any = dataclasses.field(default=None, compare=False, repr=False)
  # Constants of the calls in which the model does what it did in the example.
  _alike: set[int | None] = dataclasses.field(
    default_factory=set, compare=False, repr=False
  )

  def apply(self, variables: Variables, *args: Any, **options: Any) -> Any:
    """Returns what `model.apply` returns.

    The call must do with the folded norms what the example did. If its
    constants, such as `train=False`, are others than before, the model is
    traced to see whether it does.

    Raises:
      ValueError: a norm does not follow its layer, has a mask or trains; the
        output of the layer, or a parameter of the two, is used elsewhere; or
        `variables` are those of the model before it was folded.
    """
    stats = set(norm_paths(variables.get("batch_stats", {})))
    unfolded = stats.intersection(norm.path for norm in self.norms)
    if unfolded:
      raise ValueError(
        f"These variables have statistics of {listed(unfolded)}, folded into"
        " layers. Pass the variables that fold returned."
      )
    self._check_constants(args, options)
    folding = _Folding(self.norms)
    with intercepted(folding.intercept, self.norms):
      result = self.model.apply(variables, *args, **options)
    folding.check()
    return result

  def _check_constants(
    self, args: tuple[Any, ...], options: Mapping[str, Any]
  ) -> None:
    """Raises if the norms could not be folded by an example of this call."""
    key = constants(args, options)
    if key in self._alike:
      return
    try:
      traced, _, read = trace(self.model, self.unfolded, args, options)
    except ModifyScopeVariableError as error:
      if "batch_stats" not in str(error):
        raise
      raise ValueError(
        "In this call, a batch norm trains: it uses the statistics of the"
        f" batch. {_AS_EXAMPLE}"
      ) from error
    called = {call.path for call in traced.calls}
    norms = [
      norm.path for norm in self.norms if called & {norm.path, norm.layer}
    ]
    _, refused = find_pairs(norms, KINDS, traced, read)
    if refused:
      reasons = "; ".join(
        f"{name_of(path)}: {reason}" for path, reason in refused.items()
      )
      raise ValueError(f"In this call, {reasons}. {_AS_EXAMPLE}")
    if key is not None:
      self._alike.add(key)


def fold(
  model: nn.Module,
  variables: Variables,
  *args: Any,
  which: Which = None,
  partial: bool = False,
  **options: Any,
) -> tuple[FoldedModel, Variables]:
  """Returns model and variables in which batch norms are parts of layers.

  In evaluation, a batch norm of `normjax.linen` or `flax.linen`, and also
  `BatchRenorm` and `GhostBatchNorm`, is an affine map of each channel. An
  `nn.Dense`, `nn.Conv` or `nn.ConvTranspose` before it can do the same with
  another kernel and bias, for nothing.

  The model is traced once with the example, without computing anything. What
  counts is what it does, not how it is written or how its modules are named: a
  norm is folded if its input is what a layer returned, unchanged, and if
  nothing else in the model uses that, or the parameters of the two.

  The folded model equals the original up to the rounding of its layers, about
  1e-6 in float32. A layer that computes in half precision rounds its result;
  that is now the result of the norm. Means that are many standard deviations
  away are as in `normjax.fold_batch_norm`.

  Args:
    model: A Linen module.
    variables: Its variables.
    *args: An example of the model's arguments. Arrays may be
      `jax.ShapeDtypeStruct`: values do not matter.
    which: The norms to fold; None means all. As in `frozen`.
    partial: Whether norms that can not be folded may stay as they are.
      Otherwise that is an error.
    **options: Options of `model.apply` as in evaluation, such as `train=False`
      or `method`.

  Returns:
    A `FoldedModel`, and its variables: new kernels and biases, and no
    parameters and statistics of the folded norms. A model that has no batch
    norm stays as it is.

  Raises:
    TypeError: `which` is of another type.
    ValueError: `which`, or an item of it, chooses none, or a norm can not be
      folded, with the reason for
      each: its input is not what a layer returned, because it stands before the
      layer or after an activation; the layer's output or a parameter is also
      used elsewhere; layer or norm is called twice; the norm is masked, uses
      the statistics of the batch, or has another axis than the layer's
      features; layer or norm is of a class that may do something else.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from normjax.linen import BatchNorm, fold
    >>> model = nn.Sequential([
    ...   nn.Conv(8, (3, 3), use_bias=False),
    ...   BatchNorm(use_running_average=True),
    ...   nn.relu])
    >>> x = jnp.ones((1, 4, 4, 3))
    >>> variables = model.init(jax.random.key(0), x)
    >>> folded, folded_variables = fold(model, variables, x)
    >>> print(jax.tree.map(jnp.shape, folded_variables))
    {'params': {'layers_0': {'bias': (8,), 'kernel': (3, 3, 3, 8)}}}
    >>> y = jax.jit(folded.apply)(folded_variables, x)
    >>> bool(jnp.allclose(y, model.apply(variables, x), atol=1e-5))
    True
  """
  chosen = canonical(which)
  plain = nn.meta.unbox(dict(variables))
  traced, norms, read = trace(model, plain, args, options)
  paths = {call.path: call.module for call in norms}
  for path in norm_paths(plain.get("batch_stats", {})):
    paths.setdefault(path, None)
  wanted = [
    path
    for path, module in paths.items()
    # One that is not called has no class.
    if (
      selects_path(chosen, path)
      if module is None
      else selects(chosen, path, module)
    )
  ]
  if paths:
    name = type(model).__name__
    check_choice(chosen, name, [*paths], chosen=bool(wanted))
  pairs, kept = find_pairs(wanted, KINDS, traced, read)
  if kept and not partial:
    raise ValueError(refusal(type(model).__name__, kept, len(wanted)))
  folded = FoldedModel(
    model,
    tuple(folded_norm(*pair) for pair in pairs.values()),
    tuple((name_of(path), reason) for path, reason in kept.items()),
    jax.tree.map(_abstract, plain),
    {constants(args, options)} - {None},
  )
  return folded, _folded_variables(variables, pairs.values())


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


def _folded_variables(
  variables: Variables, pairs: Any
) -> dict[str, dict[str, Any]]:
  """Returns the variables with folded layers and without the norms."""
  flat = traverse_util.flatten_dict(dict(variables), keep_empty_nodes=True)
  get = lambda *path: nn.meta.unbox(flat.get(path))
  for norm, layer in pairs:
    module = norm.module
    of_layer, of_norm = ("params", *layer.path), ("params", *norm.path)
    stats = ("batch_stats", *norm.path)
    transposed = getattr(layer.module, "transpose_kernel", False)
    folded = functional.fold_batch_norm(
      get(*of_layer, "kernel"),
      get(*of_layer, "bias"),
      get(*of_norm, "scale"),
      get(*of_norm, "bias"),
      functional.BatchStats(get(*stats, "mean"), get(*stats, "var")),
      axis=-2 if transposed else -1,
      epsilon=module.epsilon,
      scale_offset=getattr(module, "scale_offset", 0.0),
    )
    for name, value in zip(("kernel", "bias"), folded, strict=True):
      path = (*of_layer, name)
      flat[path] = nn.meta.replace_boxed(flat.get(path, value), value)
    for path in [*flat]:
      if path[1 : len(norm.path) + 1] == norm.path:
        del flat[path]
  return traverse_util.unflatten_dict(flat)


class _Folding:
  """Runs a model without the norms that are folded."""

  def __init__(self, norms: tuple[FoldedNorm, ...]):
    self._norms = {norm.path: norm for norm in norms}
    self._layers = {norm.layer: norm for norm in norms}
    # Outputs of layers whose norm is still to come.
    self._pending: dict[Path, Any] = {}

  def intercept(
    self, next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext
  ) -> Any:
    path = context.module.path if called(context) else None
    if path in self._layers:
      return self._layer(self._layers[path], next_fun, args, kwargs, context)
    if path in self._norms:
      return self._norm(self._norms[path], args, kwargs, context)
    return next_fun(*args, **kwargs)

  def check(self) -> None:
    """Raises if a norm was not called after its layer."""
    if self._pending:
      raise ValueError(
        f"{listed(self._pending)} did not come after the layer that it was"
        f" folded into. {_AS_EXAMPLE}"
      )

  def _layer(
    self,
    norm: FoldedNorm,
    next_fun: Any,
    args: Any,
    kwargs: Any,
    context: InterceptorContext,
  ) -> Any:
    with (
      field_set(context.module, "use_bias", True)
      if norm.new_bias
      else contextlib.nullcontext()
    ):
      y = next_fun(*args, **kwargs)
    self._pending[norm.path] = y
    return y

  def _norm(
    self, norm: FoldedNorm, args: Any, kwargs: Any, context: InterceptorContext
  ) -> Any:
    given = arguments(context, args, kwargs).arguments
    module: Any = context.module
    x = next(iter(given.values()))
    mode = given.get("use_running_average")
    mode = module.use_running_average if mode is None else mode
    if (
      not mode
      or given.get("mask") is not None
      or self._pending.pop(norm.path, None) is not x
    ):
      raise ValueError(
        f"{name_of(norm.path)} was folded into {name_of(norm.layer)}, but is"
        " now called in training, with a mask, or with something else than the"
        f" output of that layer. {_AS_EXAMPLE}"
      )
    return x if norm.dtype is None else x.astype(norm.dtype)


_AS_EXAMPLE = (
  "Call the folded model as in the example that it was folded with, or fold it"
  " with an example of this call."
)
