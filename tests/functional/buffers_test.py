"""The same bits from wherever and however the numbers lie in memory.

Foreign memory is where strides were ignored without a word:
https://github.com/jax-ml/jax/issues/4196 and
https://github.com/jax-ml/jax/issues/17784.
"""

import functools
import pathlib
import tempfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from tests import cases

CASES = {case.name: case for case in cases.KINDS}
GUARD = 77.0


def offset(x, by):
  """Returns a view from some element on, and the memory that it is part of."""
  memory = np.full(x.size + 64, GUARD, x.dtype)
  view = memory[by : by + x.size].reshape(x.shape)
  view[...] = x
  return view, memory


def aligned(x):
  """Returns a view that XLA can use in place."""
  memory = np.full(x.size + 128, GUARD, x.dtype)
  start = -memory.ctypes.data % 64 // x.itemsize
  view = memory[start : start + x.size].reshape(x.shape)
  view[...] = x
  return view, memory


def offset_by_a_byte(x):
  memory = np.full(x.nbytes + 64, 7, np.uint8)
  view = memory[1 : 1 + x.nbytes].view(x.dtype).reshape(x.shape)
  view[...] = x
  return view, memory


def every_other(x):
  memory = np.full((*x.shape[:-1], 2 * x.shape[-1]), GUARD, x.dtype)
  view = memory[..., ::2]
  view[...] = x
  return view, memory


def part(x):
  """Returns a view whose rows are apart."""
  memory = np.full([size + 3 for size in x.shape], GUARD, x.dtype)
  view = memory[tuple(slice(1, 1 + size) for size in x.shape)]
  view[...] = x
  return view, memory


def transposed(x):
  memory = np.ascontiguousarray(x.T)
  return memory.T, memory


def backward(x):
  memory = np.ascontiguousarray(np.flip(x))
  return np.flip(memory), memory


def read_only(x):
  memory = x.copy()
  memory.flags.writeable = False
  return memory, memory


VIEWS = {
  **{
    f"offset_{by}": functools.partial(offset, by=by) for by in (0, 1, 3, 7, 17)
  },
  "aligned": aligned,
  "offset_by_a_byte": offset_by_a_byte,
  "every_other": every_other,
  "part": part,
  "transposed": transposed,
  "backward": backward,
  "read_only": read_only,
}
# Makes of a view what is passed on.
IMPORTS = {
  "numpy": lambda view: view,
  "asarray": jnp.asarray,
  "no_copy": lambda view: jnp.asarray(view, copy=False),
  # From the CPU, where the memory is, to where the program runs.
  "dlpack": lambda view: jax.device_put(
    jax.dlpack.from_dlpack(view), jax.devices()[0]
  ),
}


def program(case, donated=()):
  """Returns a norm and its gradients, compiled."""
  return _program(case.name, donated)


@functools.cache
def _program(name, donated):
  case = CASES[name]

  def run(x, dy, scale, bias):
    given = [p for p in (scale, bias) if p is not None]
    y, pullback = jax.vjp(case.apply, x, *given)
    return y, *pullback(dy)

  return jax.jit(run, donate_argnums=donated)


def arguments(case, dtype):
  """Returns contiguous x, dy, scale and bias."""
  x, dy = case.input(3.0), case.input(seed=1)
  return x.astype(dtype), dy.astype(dtype), *case.parameters()


def copies(tree):
  return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def expected(case, dtype):
  """Returns what contiguous arrays of JAX's own give."""
  return jax.device_get(program(case)(*copies(arguments(case, dtype))))


class BuffersTest(parameterized.TestCase):
  @parameterized.product(
    name=(*CASES, "layer_bfloat16", "batch_bfloat16"), imported=(*IMPORTS,)
  )
  def test_views(self, name, imported):
    case = CASES[name.removesuffix("_bfloat16")]
    dtype = jnp.float32 if name in CASES else jnp.bfloat16
    for view, make in VIEWS.items():
      with self.subTest(view):
        made = jax.tree.map(make, arguments(case, dtype))
        given = [pair and pair[0] for pair in made]
        try:
          given = jax.tree.map(IMPORTS[imported], given)
        except (ValueError, TypeError, RuntimeError, BufferError) as error:
          # There may be no way to take it as it is.
          self.assertNotIn(imported, ("numpy", "asarray"))
          self.assertNotEqual(str(error), "")
          continue
        before = jax.tree.map(np.copy, made)
        results = program(case)(*given)
        if imported == "dlpack" and view == "transposed":
          # XLA keeps the order of axes, and compiles another program for it.
          tolerance = 4 * float(jnp.finfo(dtype).eps)
          chex.assert_trees_all_close(
            results, expected(case, dtype), rtol=tolerance, atol=tolerance
          )
        else:
          chex.assert_trees_all_equal(results, expected(case, dtype))
        chex.assert_trees_all_equal(made, before)

  @parameterized.named_parameters(cases.named(cases.KINDS))
  def test_donated(self, case):
    for view, make in VIEWS.items():
      with self.subTest(view):
        made = jax.tree.map(make, arguments(case, jnp.float32))
        before = jax.tree.map(np.copy, made)
        given = [pair and jnp.asarray(pair[0]) for pair in made]
        chex.assert_trees_all_equal(
          program(case, 0)(*given), expected(case, jnp.float32)
        )
        self.assertTrue(given[0].is_deleted())
        chex.assert_trees_all_equal(made, before)

  @parameterized.named_parameters(cases.named(cases.KINDS))
  def test_mapped_file(self, case):
    x, *rest = arguments(case, jnp.float32)
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "numbers"
      for start in (0, 4, 20):
        path.write_bytes(start * b"7" + x.tobytes() + b"77")
        content = path.read_bytes()
        for mode in ("r", "r+", "c"):
          file = np.memmap(path, x.dtype, mode, start, x.shape)
          for given in (file, jnp.asarray(file)):
            chex.assert_trees_all_equal(
              program(case)(given, *rest), expected(case, jnp.float32)
            )
          del given, file
        self.assertEqual(path.read_bytes(), content)

  @parameterized.named_parameters(cases.named(cases.KINDS))
  def test_the_other_order_of_bytes(self, case):
    """JAX refuses it, but only where it has not compiled for the dtype yet."""
    x, _, scale, bias = arguments(case, jnp.float32)
    y = case.apply(x, scale, bias)
    other = x.dtype.newbyteorder()
    for given in ((x.astype(other), scale), (x, scale.astype(other))):
      with self.subTest(str(given[1].dtype)):
        try:
          swapped = case.apply(*given, bias)
        except TypeError as error:
          self.assertRegex(str(error), "[><]f4")
        else:
          np.testing.assert_array_equal(swapped, y)
