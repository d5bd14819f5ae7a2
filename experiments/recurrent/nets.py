"""LSTM, GRU and simple RNN; each takes its norm as an argument.

Shapes: n sequences, t time steps, f features of an input, h units.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.lab.models.norms import norm_factory
from normjax.linen import StepBatchNorm, make_norm

# Called as norm(train=..., use_bias=...); see `norm_of`.
NormFactory = Callable[..., nn.Module]
State = tuple[jax.Array, ...]  # The output of the cell, then its memory.

# With a gain of one, gradients through tanh vanish: Cooijmans et al., section
# 4. `StepBatchNorm` starts there too.
_GAIN = nn.initializers.constant(0.1)
# Where almost all inputs are equal, as in the blank first rows of MNIST, the
# variance of a batch says little of that of the population. Cooijmans et al.
# add noise to the first state instead.
EPSILON = 1e-2


def norm_of(name: str, steps: int = 1, **options: Any) -> NormFactory:
  """Returns what makes the norms of a cell.

  Args:
    name: "none"; "ln"; "step", batch norm with running statistics of each time
      step; or "one", batch norm with one running statistic for all steps. In
      training these two are the same: each step is standardized on its own.
    steps: Number of steps with statistics of their own, for "step".
    **options: Options of `StepBatchNorm`, for "step".
  """
  if name == "none":
    return _identity
  if name == "step":
    return functools.partial(_step_norm, steps=steps, **options)
  if name == "one":
    return norm_factory("bn", scale_init=_GAIN, epsilon=EPSILON)
  return norm_factory(name)


def _identity(*, use_bias: bool, **options: Any) -> nn.Module:
  del use_bias  # It has none.
  return make_norm("none", **options)


def _step_norm(*, train: bool, **options: Any) -> nn.Module:
  options = {"momentum": 0.9, "epsilon": EPSILON, **options}
  return StepBatchNorm(use_running_average=not train, **options)


class Cell(nn.Module):
  """What the cells share: two matrix products, each with its norm.

  Attributes:
    units: Number of units.
    norm: Makes the norms, see `norm_of`.
    train: Whether batch norms use the statistics of the batch.
  """

  memories: ClassVar[int] = 0  # Arrays of a state besides the output.

  units: int
  norm: NormFactory
  train: bool

  def _product(self, x: jax.Array, name: str, width: int) -> jax.Array:
    """Returns `[n, width]`; the kernel of the state is orthogonal."""
    init = nn.initializers.lecun_normal()
    if name.startswith("state"):
      # Each square block keeps the size of the state.
      init = nn.initializers.orthogonal((width / self.units) ** 0.5)
    return nn.Dense(width, use_bias=False, kernel_init=init, name=name)(x)

  def _norm(
    self,
    x: jax.Array,
    step: jax.Array,
    mask: jax.Array | None,
    use_bias: bool = False,
  ) -> jax.Array:
    """Returns `x` `[n, w]`, normalized as the step with this number."""
    norm = self.norm(train=self.train, use_bias=use_bias)
    rows = None if mask is None else mask[:, None]
    if isinstance(norm, StepBatchNorm):
      return norm(x, step, mask=rows)
    return norm(x, mask=rows)

  def _bias(self, width: int) -> jax.Array:
    bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
    return bias[None]


class SimpleRNN(Cell):
  """h = tanh(norm(U h + W x) + b): Ba et al., section 3.1."""

  @nn.compact
  def __call__(
    self, state: State, x: jax.Array, step: jax.Array, mask: jax.Array | None
  ) -> State:
    """Returns the state after `x` `[n, f]`."""
    (h,) = state
    a = self._product(h, "state", self.units)
    a += self._product(x, "input", self.units)
    return (jnp.tanh(self._norm(a, step, mask) + self._bias(self.units)),)


class GRU(Cell):
  """Gated recurrent unit, normalized as in the appendix of Ba et al."""

  @nn.compact
  def __call__(
    self, state: State, x: jax.Array, step: jax.Array, mask: jax.Array | None
  ) -> State:
    """Returns the state after `x` `[n, f]`."""
    (h,) = state
    norm = functools.partial(self._norm, step=step, mask=mask)
    gates = norm(self._product(h, "state", 2 * self.units))
    gates += norm(self._product(x, "input", 2 * self.units))
    reset, update = jnp.split(
      nn.sigmoid(gates + self._bias(2 * self.units)), 2, axis=1
    )
    new = norm(self._product(x, "input_new", self.units), use_bias=True)
    new += reset * norm(self._product(h, "state_new", self.units))
    return (update * h + (1 - update) * jnp.tanh(new),)


class LSTM(Cell):
  """Long short-term memory, normalized as in both sources.

  i, f, o, g = norm(U h) + norm(W x) + b; c = sigmoid(f + 1) c + sigmoid(i)
  tanh(g); h = sigmoid(o) tanh(norm(c)). The memory c itself is not normalized.
  Ba et al., equations 20 to 22; Cooijmans et al., section 3.
  """

  memories: ClassVar[int] = 1

  @nn.compact
  def __call__(
    self, state: State, x: jax.Array, step: jax.Array, mask: jax.Array | None
  ) -> State:
    """Returns the state after `x` `[n, f]`."""
    h, c = state
    width = 4 * self.units
    norm = functools.partial(self._norm, step=step, mask=mask)
    gates = norm(self._product(h, "state", width))
    gates += norm(self._product(x, "input", width))
    i, f, o, g = jnp.split(gates + self._bias(width), 4, axis=1)
    c = nn.sigmoid(f + 1) * c + nn.sigmoid(i) * jnp.tanh(g)
    h = nn.sigmoid(o) * jnp.tanh(norm(c, use_bias=True))
    return h, c


CELLS: Mapping[str, type[Cell]] = {"lstm": LSTM, "gru": GRU, "rnn": SimpleRNN}


class Reader(nn.Module):
  """Reads sequences with a recurrent cell, and answers from its last output.

  A sequence that has ended keeps its state, and its padding is in no
  statistics.

  Attributes:
    cell: Name of the cell, one of `CELLS`.
    norm: Makes the norms, see `norm_of`.
    units: Number of units.
    num_outputs: Numbers in an answer.

  >>> model = Reader("gru", norm_of("ln"), units=16)
  >>> x = jnp.zeros((4, 7, 3))  # Four sequences of seven steps.
  >>> variables = model.init(jax.random.key(0), x, train=False)
  >>> model.apply(variables, x, train=False).shape
  (4, 10)
  """

  cell: str
  norm: NormFactory
  units: int = 32
  num_outputs: int = 10

  @nn.compact
  def __call__(
    self, x: jax.Array, mask: jax.Array | None = None, *, train: bool
  ) -> jax.Array:
    """Returns the answers `[n, num_outputs]`.

    Args:
      x: Inputs `[n, t, f]`.
      mask: `[n, t]`, False where a sequence has ended; None without padding.
      train: Whether batch norms use the statistics of the batch.
    """
    cell = CELLS[self.cell](self.units, self.norm, train, name="cell")
    state: State = (jnp.zeros((len(x), self.units)),) * (1 + cell.memories)
    carry = state, jnp.int32(0)
    first = x[:, 0], None if mask is None else mask[:, 0]
    if self.is_initializing():  # Flax scans variables that exist.
      (state, _), _ = _advanced(cell, carry, first)
    else:
      # Each step hands on the statistics as it has changed them.
      changes = self.is_mutable_collection("batch_stats")
      scan = nn.scan(
        _advanced,
        variable_broadcast=["params"] if changes else ["params", "batch_stats"],
        variable_carry="batch_stats" if changes else False,
        split_rngs={"params": False},
        in_axes=1,
      )
      (state, _), _ = scan(cell, carry, (x, mask))
    return nn.Dense(self.num_outputs, name="answer")(state[0])


def _advanced(
  cell: Cell, carry: tuple[State, jax.Array], inputs: tuple[Any, Any]
) -> tuple[tuple[State, jax.Array], None]:
  """Returns the state of all sequences one step later."""
  (state, step), (x, mask) = carry, inputs
  new = cell(state, x, step, mask)
  if mask is not None:
    new = jax.tree.map(lambda a, b: jnp.where(mask[:, None], a, b), new, state)
  return (new, step + 1), None
