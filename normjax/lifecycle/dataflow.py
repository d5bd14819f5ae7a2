"""Which value goes where in a program that JAX has traced.

Values are marked while a model is traced. The marks are operations of the
program, so what is found is what the program does, however the model is
written.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

_MARK = "normjax.lifecycle.dataflow:"

# Operations that call programs with their own operands, under the names of all
# versions of JAX. The first operand of a condition chooses the program.
_CALLS = frozenset({
  "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
  "custom_jvp_call", "custom_vjp_call", "scan", "shard_map", "cond",
})  # fmt: skip

_OUTSIDE = (
  "an input of the model, or of a part of it that a transformation such as"
  " jit, remat, scan or vmap makes"
)


class Mark(NamedTuple):
  """A marked value, each time that it occurs in a program.

  Attributes:
    number: The number that it was marked with.
    source: The number of the mark whose value this one is, unchanged; None if
      it is no marked value.
    maker: What computed it, in words.
    uses: How often the marked value is used.
  """

  number: int
  source: int | None
  maker: str
  uses: int


def mark(x: jax.Array, number: int) -> jax.Array:
  """Returns `x`, and leaves a mark in the program that is being traced."""
  return checkpoint_name(x, f"{_MARK}{number}")


def marks(program: ClosedJaxpr | Jaxpr) -> Iterator[Mark]:
  """Yields all marks in a program, and in the programs that it calls.

  A program that is called twice is visited twice.
  """
  jaxpr = getattr(program, "jaxpr", program)
  makers = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
  used = [*jaxpr.outvars, *(x for eqn in jaxpr.eqns for x in eqn.invars)]
  for eqn in jaxpr.eqns:
    for inner in _programs(eqn):
      yield from marks(inner)
    number = _number(eqn)
    if number is None:
      continue
    operand, result = eqn.invars[0], eqn.outvars[0]
    maker = None if isinstance(operand, Literal) else makers.get(operand)
    yield Mark(
      number,
      None if maker is None else _number(maker),
      _OUTSIDE if maker is None else f"the result of `{_name(maker)}`",
      sum(x is result for x in used),
    )


def inputs_read(program: ClosedJaxpr | Jaxpr) -> list[bool]:
  """Returns for each input of a program whether anything depends on it.

  A call depends on what the called program depends on, not on all that it is
  given. Where this is not known, as in `while_loop`, all of it counts.
  """
  jaxpr = getattr(program, "jaxpr", program)
  read = [*jaxpr.outvars]
  for eqn in jaxpr.eqns:
    inner = _programs(eqn) if eqn.primitive.name in _CALLS else []
    operands = eqn.invars
    if eqn.primitive.name == "cond":
      read.append(operands[0])
      operands = operands[1:]
    if not inner:
      read += operands
    for called in inner:
      pairs = zip(operands, inputs_read(called), strict=True)
      read += [operand for operand, needed in pairs if needed]
  ids = {id(x) for x in read}
  return [id(var) in ids for var in jaxpr.invars]


def _programs(eqn: Any) -> list[ClosedJaxpr | Jaxpr]:
  """Returns the programs that an operation calls."""
  return [
    item
    for value in eqn.params.values()
    for item in (value if isinstance(value, tuple | list) else [value])
    if isinstance(item, ClosedJaxpr | Jaxpr)
  ]


def _name(eqn: Any) -> str:
  """Returns the name of the function that an operation calls, or its own."""
  name = eqn.primitive.name
  programs = _programs(eqn)
  if not programs:
    return name
  if name.startswith("custom_") and programs[0].eqns:
    return _name(programs[0].eqns[-1])
  return eqn.params.get("name") or name


def _number(eqn: Any) -> int | None:
  name = eqn.params.get("name") if eqn.primitive.name == "name" else None
  if not isinstance(name, str) or not name.startswith(_MARK):
    return None
  return int(name.removeprefix(_MARK))


def is_array(leaf: Any) -> bool:
  """Whether a leaf of a call's arguments can be traced."""
  return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)
