import collections
import contextlib
import io
import itertools
import json
import math
import os
import tempfile
import warnings
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from absl.testing import absltest, parameterized

from benchmarks import (
  machine,
  norm_cases,
  norm_figure,
  norm_layer,
  norm_libraries,
  norm_memory,
  norm_options,
  norm_peers,
  norm_programs,
  norm_report,
  norm_torch,
  norms,
)
from benchmarks.norm_cases import Case
from experiments.lab.timing import Spread

# Every norm in both layouts, as small as can be.
TINY = [
  *norm_cases.cases(
    norm_cases.NORMS, ["float32"], norm_cases.LAYOUTS, [(3, 4, 2, 64)]
  ),
  # Vectors, which have no spatial axes to normalize over or to move.
  *norm_cases.cases(["layer", "batch"], ["float32"], ["last"], [(6, 8)]),
]
# Its forward derivative asks for a view that this layout does not allow.
TORCH_GAPS = [("group", "last", "jvp")]


def tiny_names():
  return [(case.title, case) for case in TINY]


def load(name):
  """Returns a library's layers, none where it is not installed."""
  try:
    return norm_libraries.LIBRARIES[name][1]()
  except ImportError:
    return {}


def reference64(case):
  """Returns the norm as a function of float64 arrays, by the textbook."""
  inputs = norm_cases.make_inputs(case)
  ndim = len(case.shape)
  channel = case.channel_axis % ndim
  spatial = tuple(i for i in range(1, ndim) if i != channel)
  shape = [1] * ndim
  shape[channel] = case.channels

  def norm(x, scale, bias=0.0):
    if case.norm == "batch-eval":
      mean, var = (
        value.astype(np.float64).reshape(shape)
        for value in (inputs.mean, inputs.var)
      )
    elif case.norm == "group":
      grouped = x.reshape(
        *x.shape[:channel], case.groups, -1, *x.shape[channel + 1 :]
      )
      axes = tuple(i for i in range(1, ndim + 1) if i != channel)
      y = (grouped - grouped.mean(axes, keepdims=True)) / np.sqrt(
        grouped.var(axes, keepdims=True) + norm_cases.EPSILON
      )
      mean, var = 0.0, 1.0 - norm_cases.EPSILON
      x = y.reshape(x.shape)
    elif case.norm == "rms":
      mean, var = 0.0, np.square(x).mean(channel, keepdims=True)
    else:
      axes = {
        "layer": (channel,),
        "batch": (0, *spatial),
        "instance": spatial,
      }[case.norm]
      mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    y = (x - mean) / np.sqrt(var + norm_cases.EPSILON)
    return y * np.reshape(scale, shape) + (
      np.reshape(bias, shape) if np.ndim(bias) else bias
    )

  return norm


def expected(case, mode):
  """Returns what a step should produce, derivatives by central differences."""
  inputs = norm_cases.make_inputs(case)
  norm = reference64(case)
  x, cotangent = np.float64(inputs.x), np.float64(inputs.cotangent)
  params = [np.float64(param) for param in inputs.params]
  y = norm(x, *params)
  if mode == "forward":
    return [y]
  arguments = [x, *params]

  def slope(directions):
    up = norm(
      *(a + 1e-6 * d for a, d in zip(arguments, directions, strict=True))
    )
    down = norm(
      *(a - 1e-6 * d for a, d in zip(arguments, directions, strict=True))
    )
    return (up - down) / 2e-6

  if mode == "jvp":
    return [y, slope([cotangent, *params])]
  gradients = []
  for which, argument in enumerate(arguments):
    gradient = np.zeros(argument.shape)
    for index in itertools.islice(np.ndindex(argument.shape), 12):
      directions = [np.zeros(a.shape) for a in arguments]
      directions[which][index] = 1.0
      gradient[index] = (slope(directions) * cotangent).sum()
    gradients.append(gradient.ravel()[:12])
  return [y, *gradients]


def assert_step(results, case, mode, rtol):
  results = [np.asarray(leaf, np.float64) for leaf in results]
  wanted = expected(case, mode)
  assert len(results) == len(wanted), (len(results), len(wanted))
  if mode == "grad":
    results = [results[0], *(g.ravel()[:12] for g in results[1:])]
  for result, value in zip(results, wanted, strict=True):
    np.testing.assert_allclose(result, value, rtol=rtol, atol=rtol)


class CasesTest(parameterized.TestCase):
  def test_layouts(self):
    case = Case("group", (8, 16, 12, 64), layout="first")
    self.assertEqual(case.array_shape, (8, 64, 16, 12))
    self.assertEqual(case.array_shape[case.channel_axis], case.channels)
    case = case._replace(layout="last")
    self.assertEqual(case.array_shape[case.channel_axis], case.channels)

  def test_groups_divide(self):
    self.assertEqual(Case("group", (2, 4, 64)).groups, 32)
    self.assertEqual(Case("group", (2, 4, 48)).groups, 16)

  def test_bytes(self):
    self.assertEqual(Case("layer", (10, 6), "bfloat16").nbytes, 120)
    self.assertEqual(Case("layer", (10, 6), "float32").nbytes, 240)

  def test_grid_holds_small_and_large(self):
    grid = list(
      norm_cases.cases(
        norm_cases.NORMS, ["float32", "bfloat16"], norm_cases.LAYOUTS
      )
    )
    self.assertLen(set(grid), len(grid))
    for norm in norm_cases.NORMS:
      some = [case for case in grid if case.norm == norm]
      self.assertLess(min(case.nbytes for case in some), 2**20)
      self.assertGreater(max(case.nbytes for case in some), 20 * 2**20)
      self.assertSetEqual({case.layout for case in some}, {"last", "first"})
    self.assertLess(
      max(
        case.nbytes
        for case in norm_cases.cases(
          norm_cases.NORMS, ["float32"], ["last"], quick=True
        )
      ),
      2**20,
    )

  def test_leaves_out_what_makes_no_sense(self):
    some = norm_cases.cases(
      ["group", "layer", "batch"], ["float32"], norm_cases.LAYOUTS, [(6, 8)]
    )
    self.assertEqual(
      [(case.norm, case.layout) for case in some],
      [("layer", "last"), ("batch", "last")],
    )

  @parameterized.parameters("768", "8192,768", "4x0", "axb", "")
  def test_refuses_shape(self, text):
    with self.assertRaisesRegex(ValueError, f"8192x768.*got '{text}'"):
      norm_cases.parse_shape(text)

  def test_inputs_are_the_same_every_time(self):
    case = Case("rms", (4, 6), layout="last")
    first, second = map(norm_cases.make_inputs, (case, case))
    np.testing.assert_array_equal(first.x, second.x)
    self.assertLen(first.params, 1)
    self.assertLen(norm_cases.make_inputs(TINY[0]).params, 2)


class LibrariesTest(parameterized.TestCase):
  """Peers are tried where they are installed."""

  def setUp(self):
    super().setUp()
    self.enterContext(jax.numpy_dtype_promotion("standard"))
    self.enterContext(jax.numpy_rank_promotion("allow"))

  def assert_statistics(self, statistics, case):
    inputs = norm_cases.make_inputs(case)
    mean, var = inputs.mean, inputs.var
    if case.norm == "batch":
      channel = case.channel_axis % len(case.shape)
      axes = tuple(i for i in range(len(case.shape)) if i != channel)
      mean = 0.9 * mean + 0.1 * inputs.x.mean(axes)
      var = 0.9 * var + 0.1 * inputs.x.var(axes)
    arrays = [
      np.ravel(leaf)
      for leaf in jax.tree.leaves(statistics)
      if leaf.size == case.channels
    ]
    for value in (mean, var):
      self.assertTrue(
        any(np.allclose(array, value, atol=1e-5) for array in arrays)
      )

  @parameterized.named_parameters(tiny_names())
  def test_all_compute_the_same(self, case):
    offered = []
    for name in norm_libraries.LIBRARIES:
      layers = load(name)
      layer = layers[case.norm](case) if case.norm in layers else None
      if layer is None:
        continue
      offered.append(name)
      with self.subTest(name):
        outputs, stats = norm_programs.make_call("grad", case, layer)()
        assert_step(jax.tree.leaves(outputs), case, "grad", 2e-4)
        if case.norm.startswith("batch"):
          self.assert_statistics(stats, case)
    self.assertIn("normjax", offered)
    if case.layout == "last":
      self.assertContainsSubset({"flax.linen", "flax.nnx"}, offered)

  @parameterized.parameters(*norm_cases.NORMS)
  def test_half_precision_stays_half(self, norm):
    case = Case(norm, (4, 6, 6, 32), "bfloat16")
    for name in norm_libraries.LIBRARIES:
      layers = load(name)
      layer = layers[norm](case) if norm in layers else None
      if layer is None:
        continue
      with self.subTest(name):
        (y, (dx, dparams)), _ = jax.eval_shape(
          norm_programs.make_call("grad", case, layer)
        )
        self.assertEqual(y.dtype, jnp.bfloat16)
        self.assertEqual(dx.dtype, jnp.bfloat16)
        self.assertEqual(dparams[0].dtype, jnp.float32)

  @parameterized.named_parameters(tiny_names())
  def test_torch(self, case):
    try:
      import torch
    except ImportError:
      self.assertIsInstance(norm_peers.PACKAGES["torch"], str)
      return
    for mode in norm_programs.MODES:
      if (case.norm, case.layout, mode) in TORCH_GAPS and len(case.shape) > 2:
        continue
      with self.subTest(mode), warnings.catch_warnings():
        # PyTorch's forward mode uses what it has deprecated itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        step = norm_torch.make_step(mode, case, compiled=False)
        if step is None:
          self.assertIn(case.norm, ("layer", "rms"))
          self.assertEqual(case.layout, "first")
          continue
        outputs = [
          leaf.detach()
          for leaf in jax.tree.leaves(
            step(), is_leaf=lambda leaf: isinstance(leaf, torch.Tensor)
          )
        ]
        if case.layout == "last" and case.norm not in ("layer", "rms"):
          outputs = [
            leaf.movedim(1, -1) if leaf.ndim > 1 else leaf for leaf in outputs
          ]
        assert_step(outputs, case, mode, 2e-4)


def square_layer():
  """A layer that counts its steps in its statistics."""
  return norm_layer.Layer(
    lambda x, params, count: (x * x * params[0][None], count + 1), jnp.int32(0)
  )


class ProgramsTest(parameterized.TestCase):
  CASE = Case("rms", (3, 4))

  @parameterized.parameters(*norm_programs.MODES)
  def test_loop_ends_with_what_a_call_returns(self, mode):
    loop, results, arguments = norm_programs.make_loop(
      mode, self.CASE, square_layer()
    )
    outputs, count = loop(results, arguments, jnp.int32(5))
    once, _ = norm_programs.make_call(mode, self.CASE, square_layer())()
    self.assertEqual(int(count), 5)
    jax.tree.map(np.testing.assert_array_equal, outputs, once)

  def test_derivatives_by_hand(self):
    inputs = norm_cases.make_inputs(self.CASE)
    x, dy, scale = inputs.x, inputs.cotangent, inputs.params[0]
    (y, (dx, (dscale,))), _ = norm_programs.make_call(
      "grad", self.CASE, square_layer()
    )()
    np.testing.assert_allclose(y, x * x * scale, rtol=1e-5)
    np.testing.assert_allclose(dx, 2 * x * scale * dy, rtol=1e-5)
    np.testing.assert_allclose(dscale, (x * x * dy).sum(0), rtol=1e-5)
    (_, tangent), _ = norm_programs.make_call(
      "jvp", self.CASE, square_layer()
    )()
    np.testing.assert_allclose(
      tangent, 2 * x * scale * dy + x * x * scale, rtol=1e-5, atol=1e-5
    )

  @parameterized.parameters("forward", "grad", "jvp")
  def test_loop_does_all_work_in_every_step(self, mode):
    # Nothing is hoisted out of the loop, and nothing as large as x is copied
    # within it: what is timed is the step, all of it and no more.
    case = Case("layer", (64, 48))
    layer = norm_libraries.load_normjax()["layer"](case)
    loop, results, arguments = norm_programs.make_loop(mode, case, layer)
    program = loop.lower(results, arguments, jnp.int32(1)).compile().as_text()
    computations = program.split("\n\n")
    (entry,) = (text for text in computations if "ENTRY" in text)
    self.assertIn("while(", entry)
    self.assertNotRegex(entry, r"\b(reduce|fusion|dot|multiply|subtract)\(")
    self.assertNotRegex(program, r"= f32\[64,48\]\S* copy\(")

  @parameterized.parameters(*norm_programs.TIMINGS)
  def test_runs_again_and_again(self, timed):
    run = norm_programs.make_run("grad", timed, self.CASE, square_layer())
    for steps in (1, 3, 2):
      run(steps)

  def test_copy_writes(self):
    run = norm_programs.make_copy(self.CASE)
    run(1)
    run(3)

  def test_share_of_copy(self):
    # Two arrays in 1 s: five in 4 s is five eighths of that speed.
    self.assertEqual(norm_programs.copy_share("grad", 1.0, 4.0), 0.625)
    self.assertEqual(norm_programs.copy_share("forward", 1.0, 1.0), 1.0)
    self.assertEqual(norm_programs.copy_share("jvp", 1.0, 2.0), 1.0)


class MemoryTest(absltest.TestCase):
  def test_sees_what_is_kept(self):
    def layer(keep):
      def apply(x, params, statistics):
        # sin keeps nothing but its input, the product keeps both factors.
        y = jnp.sin(x)
        return (y * jnp.cos(x) if keep else y), statistics

      return norm_layer.Layer(apply)

    case = Case("rms", (64, 64))
    lean, fat = (norm_memory.measure(case, layer(keep)) for keep in (0, 1))
    self.assertGreaterEqual(lean.scan, 8 * case.nbytes)
    self.assertGreater(fat.scan, lean.scan + 7 * case.nbytes)
    self.assertLess(fat.scan_checkpoint, fat.scan - 7 * case.nbytes)
    self.assertGreaterEqual(fat.chain, lean.chain)

  def test_takes_running_statistics(self):
    case = Case("batch", (4, 3, 3, 8))
    layer = norm_libraries.load_normjax()["batch"](case)
    self.enterContext(mock.patch.object(norm_memory, "DEPTH", 1))
    self.assertGreater(norm_memory.measure(case, layer).chain, 0)


def row(case, ours, mode="grad", timed="loop", copy=1.0, **theirs):
  seconds = {"normjax": ours, **theirs}
  return norm_report.Row(
    case,
    mode,
    timed,
    Spread(copy, copy, copy),
    {name: Spread(0.9 * s, s, 1.1 * s) for name, s in seconds.items()},
  )


class ReportTest(absltest.TestCase):
  ROWS = (
    row(Case("layer", (2, 3)), 10.0, haiku=20.0, equinox=30.0, torch=5.0),
    row(Case("layer", (4, 3)), 10.0, haiku=80.0, equinox=8.0, torch=10.0),
  )

  def test_ratios(self):
    first, second = self.ROWS
    self.assertEqual(first.ratio("haiku"), 2.0)
    self.assertTrue(math.isnan(first.ratio("flax.nnx")))
    self.assertEqual((first.peer_ratio, second.peer_ratio), (2.0, 0.8))
    self.assertEqual(first.share, 0.25)

  def test_means_by_hand(self):
    (mean,) = norm_report.means(self.ROWS)
    self.assertEqual(mean["rows"], 2)
    self.assertAlmostEqual(mean["ratios"]["haiku"], 4.0)
    self.assertAlmostEqual(mean["ratios"]["torch"], math.sqrt(0.5))
    self.assertAlmostEqual(mean["fastest_jax_peer"], math.sqrt(1.6))
    self.assertAlmostEqual(mean["share_of_copy"], 0.25)

  def test_means_are_not_mixed(self):
    others = [
      row(Case("layer", (2, 3), "bfloat16"), 1.0, haiku=9.0),
      row(Case("rms", (2, 3)), 1.0, haiku=9.0),
      row(Case("layer", (2, 3)), 1.0, "jvp", haiku=9.0),
      row(Case("layer", (2, 3)), 1.0, "grad", "call", haiku=9.0),
    ]
    means = norm_report.means([*self.ROWS, *others])
    self.assertLen(means, 5)
    self.assertAlmostEqual(means[0]["ratios"]["haiku"], 4.0)

  def test_table(self):
    text = norm_report.table(self.ROWS)
    lines = [
      [cell.strip() for cell in line.strip("|").split("|")]
      for line in text.splitlines()
    ]
    self.assertEqual(
      lines[0][:4], ["array", "share of copy", "fastest JAX peer", "normjax"]
    )
    self.assertEqual(
      lines[2][:5],
      ["2x3 float32", "25%", "2.00x", "1e+04 ±10%", "2e+04 ±10%, 2.00x"],
    )
    self.assertEqual(
      lines[-1],
      [
        "geometric mean, float32",
        "25%",
        "1.26x",
        "1.00x",
        "4.00x",
        "1.55x",
        "0.71x",
      ],
    )

  def test_summary_names_slow_rows(self):
    text = norm_report.summary(self.ROWS)
    self.assertEndsWith(text, "\n\n- layer 4x3 float32, grad, loop: 0.80x")
    text = norm_report.summary(self.ROWS[:1])
    self.assertEndsWith(text, "No row is below 0.9x of the fastest JAX peer.")

  def test_without_peers(self):
    rows = [row(Case("layer", (2, 3)), 1.0)]
    self.assertIn("No row is below", norm_report.summary(rows))
    self.assertIn("2x3", norm_report.table(rows))

  def test_memory_in_arrays(self):
    case = Case("layer", (512, 1024))  # 2 MiB.
    needed = norm_memory.Memory(2**22, 2**21, 2**23, 2**20)
    text = norm_report.memory_table({case: {"normjax": needed}})
    cells = [cell.strip() for cell in text.splitlines()[-1].split("|")]
    self.assertEqual(cells[3:8], ["4.0", "2.00", "1.00", "4.00", "0.50"])

  def test_figure(self):
    path = os.path.join(
      self.enterContext(tempfile.TemporaryDirectory()), "ratios.png"
    )
    norm_figure.plot_ratios(self.ROWS, path, title="A machine")
    with open(path, "rb") as file:
      self.assertEqual(file.read(8), b"\x89PNG\r\n\x1a\n")
    with self.assertRaisesRegex(ValueError, "at least one row"):
      norm_figure.plot_ratios([], path, title="Nothing")

  def test_every_library_has_a_style(self):
    self.assertSameElements(
      norm_figure.STYLES, set(norm_peers.PACKAGES) - {"normjax"}
    )
    styles = collections.Counter(
      itertools.chain.from_iterable(norm_figure.STYLES.values())
    )
    self.assertEqual(set(styles.values()), {1})


class OptionsTest(parameterized.TestCase):
  def parse(self, *args):
    values = flags.FlagValues()
    norm_options.define_flags(values)
    values(["norms", *args])
    return norm_options.parse_options(values)

  def test_defaults_are_everything(self):
    options = self.parse()
    self.assertEqual(options.norms, list(norm_cases.NORMS))
    self.assertEqual(options.libraries, list(norm_peers.PACKAGES))
    self.assertIsNone(options.shapes)
    self.assertTrue(options.memory_cases())
    self.assertEqual(options.cases("batch")[0], Case("batch", (256, 512)))

  def test_filters(self):
    options = self.parse(
      "--norms=group,rms", "--shapes=4x6,2x3x3x8", "--dtypes=bfloat16"
    )
    self.assertEqual(
      options.cases("rms")[:2],
      [Case("rms", (4, 6), "bfloat16"), Case("rms", (2, 3, 3, 8), "bfloat16")],
    )
    self.assertEqual(
      [case.norm for case in options.memory_cases()], ["rms", "group"]
    )

  def test_quick(self):
    options = self.parse("--quick", "--rounds=5")
    self.assertEqual(options.rounds, 5)  # What is given stays.
    self.assertEqual(options.modes, ["grad"])
    self.assertNotIn("torch.compile", options.libraries)
    self.assertLen(options.cases("layer"), 1)
    self.assertLen(options.memory_cases(), 1)
    self.assertEqual(self.parse("--quick", "--nomemory").memory_cases(), [])

  @parameterized.parameters(
    ("--norms=ln", "must be some of layer,rms"),
    ("--libraries=", "must be some of normjax"),
    ("--shapes=10", "8192x768.*got '10'"),
    ("--rounds=0", "not a positive integer"),
  )
  def test_refuses(self, argument, message):
    with self.assertRaisesRegex(flags.IllegalFlagValueError, message):
      self.parse(argument)


class MachineTest(absltest.TestCase):
  def test_names_itself(self):
    text = str(machine.Machine.here(["numpy"]))
    self.assertRegex(text, r"^8 x .+, \d+ cores, load average .*; ")
    self.assertIn(f"jax {jax.__version__}", text)
    self.assertIn(f"numpy {np.__version__}", text)

  def test_warns_when_busy(self):
    idle = machine.Machine("chip", 1, 2, 0.1, {"jax": "1"})
    self.assertEqual(str(idle), "1 x chip, 2 cores, load average 0.10; jax 1")
    self.assertIn("not idle (load average 1.50)", str(idle._replace(load=1.5)))
    self.assertIn("load average unknown", str(idle._replace(load=None)))


class RunTest(absltest.TestCase):
  OPTIONS = norm_options.Options(
    norms=["layer", "group"],
    modes=["grad"],
    timings=["loop", "call"],
    dtypes=["float32"],
    layouts=["last"],
    libraries=["normjax", "flax.linen"],
    shapes=[(6, 8)],
    seconds=1e-4,
    rounds=2,
    memory=False,
    quick=True,
  )

  def setUp(self):
    super().setUp()
    self.folder = self.enterContext(tempfile.TemporaryDirectory())
    self.enterContext(mock.patch.dict(os.environ))
    self.enterContext(mock.patch.object(norms, "LARGE", Case("layer", (4, 4))))

  def run_with(self, libraries=None, **options):
    out = os.path.join(self.folder, "norms.json")
    figure = os.path.join(self.folder, "norms.png")
    libraries = libraries or {}
    with (
      mock.patch.dict(norm_libraries.LIBRARIES, libraries),
      contextlib.redirect_stdout(io.StringIO()) as stdout,
    ):
      norms.run(self.OPTIONS._replace(**options), out, figure)
    self.assertTrue(os.path.exists(figure))
    with open(out, encoding="utf-8") as file:
      return stdout.getvalue(), json.load(file)

  def test_all_of_it(self):
    self.enterContext(mock.patch.object(norm_memory, "DEPTH", 1))
    text, result = self.run_with(memory=True)
    self.assertIn("layer, grad, call (ms)", text)
    self.assertIn("8 x (norm, ReLU)", text)
    self.assertNotIn("Could not", text)
    self.assertEqual(
      [(row["case"]["norm"], row["timing"]) for row in result["rows"]],
      [("layer", "loop"), ("layer", "call")],
    )
    samples = result["rows"][0]["samples"]
    self.assertEqual(list(samples), ["copy", "normjax", "flax.linen"])
    self.assertEqual([len(s) for s in samples.values()], [2, 2, 2])
    self.assertEqual(
      result["rows"][0]["seconds"]["normjax"],
      Spread.of(samples["normjax"])._asdict(),
    )
    self.assertGreater(result["copy_bytes_per_second"], 0)
    self.assertEqual(
      list(result["memory"][0]["bytes"]), ["normjax", "flax.linen"]
    )
    self.assertIn("flax", result["machine"]["versions"])

  def test_leaves_out_what_is_missing(self):
    def missing():
      raise ImportError("No module named 'flax'")

    text, result = self.run_with({"flax.linen": ("flax", missing)})
    self.assertIn("flax.linen is left out: No module named 'flax'", text)
    self.assertIn("pip install flax", text)
    self.assertEqual(list(result["rows"][0]["seconds"]), ["normjax"])

  def test_goes_on_when_a_peer_fails(self):
    def broken(case):
      raise RuntimeError("no kernel\nfor this")

    text, result = self.run_with(
      {"flax.linen": ("flax", lambda: {"layer": broken})}
    )
    (error,) = result["failures"]
    self.assertEqual(error, "flax.linen, layer, grad: RuntimeError: no kernel")
    self.assertLen(result["failures"][error], 2)
    self.assertIn(error, text)

  def test_our_own_failure_is_an_error(self):
    def broken(case):
      raise RuntimeError("ours")

    with self.assertRaisesRegex(RuntimeError, "ours"):
      self.run_with({"normjax": ("normjax", lambda: {"layer": broken})})

  def test_nothing_to_measure(self):
    with self.assertRaisesRegex(SystemExit, "need a spatial axis"):
      norms.run(self.OPTIONS._replace(norms=["group"]), None, None)

  def test_keeps_the_threads_of_torch_from_spinning(self):
    os.environ.pop("OMP_WAIT_POLICY", None)
    self.run_with()
    self.assertEqual(os.environ["OMP_WAIT_POLICY"], "PASSIVE")

  def test_refuses_positional_arguments(self):
    with self.assertRaisesRegex(SystemExit, "Not a flag: layer"):
      norms.main(["norms", "layer"])


if __name__ == "__main__":
  absltest.main()
