"""Wrong calls raise while tracing, and the message says what to do."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import normjax

ROWS = jax.ShapeDtypeStruct((4, 6), jnp.float32)
IMAGES = jax.ShapeDtypeStruct((2, 3, 4, 6), jnp.float32)
INTEGERS = jax.ShapeDtypeStruct((4, 6), jnp.int32)
FIVE = jax.ShapeDtypeStruct((5,), jnp.float32)
WIDE = jax.ShapeDtypeStruct((1, 6), jnp.float32)


def train(x, *args, **options):
  return normjax.batch_norm(x, *args, use_running_average=False, **options)


def whiten(x, *args, **options):
  return normjax.decorrelated_batch_norm(
    x, *args, use_running_average=False, **options
  )


def norms(**options):
  """Yields every norm of an image, by name."""
  yield "layer", normjax.layer_norm, options
  yield "rms", normjax.rms_norm, options
  yield "batch", train, options
  yield "group", normjax.group_norm, {"num_groups": 3} | options
  yield "instance", normjax.instance_norm, options
  yield "whiten", whiten, options


def each(name, x, error, message, **options):
  """Returns one row of arguments for every norm."""
  return [
    (f"{name}_{norm}", function, (x,), given, error, message)
    for norm, function, given in norms(**options)
  ]


STATS = normjax.BatchStats(
  jax.ShapeDtypeStruct((6,), jnp.float32),
  jax.ShapeDtypeStruct((6,), jnp.float32),
)
MASK = np.ones((2, 3, 4, 6), bool)
MOMENTS = normjax.Moments(*[jax.ShapeDtypeStruct((6,), jnp.float32)] * 6)


class Standardized(NamedTuple):
  """A tuple with names that is not one of running statistics."""

  mean: jax.Array
  var: jax.Array


# Name, function, arguments, options, exception, and what the message holds:
# what came, what was expected, what to do.
CALLS = (
  *each("integers", INTEGERS, TypeError, r"int32\[4, 6\].*float32"),
  *each("epsilon_zero", IMAGES, ValueError, "positive, got 0.*1e-12",
        epsilon=0),
  *each("epsilon_minus", IMAGES, ValueError, "got -1e-06", epsilon=-1e-6),
  *each("epsilon_denormal", IMAGES, ValueError, "got 1e-39.*below.*as zero",
        epsilon=1e-39),
  *each("epsilon_nan", IMAGES, ValueError, "got nan", epsilon=float("nan")),
  *each("epsilon_infinite", IMAGES, ValueError, "must be finite, got inf",
        epsilon=float("inf")),
  *each("epsilon_integer", IMAGES, ValueError,
        "epsilon=768 is an integer.*Sizes are taken from x.*768.0",
        epsilon=768),
  *each("epsilon_true", IMAGES, ValueError, "is an integer", epsilon=True),
  *[
    row
    for name, value in (
      ("none", None), ("text", "1e-5"), ("shape", (6,)), ("complex", 1j),
    )
    for row in each(f"epsilon_{name}", IMAGES, TypeError,
                    "epsilon must be one number such as 1e-6", epsilon=value)
  ],
  *each("axis_as_name", IMAGES, TypeError, "must be the name.*got 1",
        axis_name=1),
  *each("no_axes", jax.ShapeDtypeStruct((), jnp.float32), ValueError,
        "x has no axes"),
  *each("unbound_name", IMAGES, NameError, r"axis_name='who'.*not bound.*vmap",
        axis_name="who"),
  *each("mask_of_integers", IMAGES, TypeError, "boolean.*int32.*mask != 0",
        mask=MASK.astype(np.int32)),
  *each("mask_of_floats", IMAGES, TypeError, "boolean.*float32",
        mask=MASK.astype(np.float32)),
  *each("mask_shape", IMAGES, ValueError, r"\(2, 3, 4\).*\(2, 3, 4, 6\).*None",
        mask=MASK[..., 0]),
  *each("mask_rank", IMAGES, ValueError, r"\(1, 2, 3, 4, 6\)",
        mask=MASK[None]),
  *[
    (f"{parameter}_shape_{name}", function, (IMAGES,),
     options | {parameter: FIVE}, ValueError,
     rf"{parameter} must have shape \(6,\).*axis|axes.*got \(5,\)")
    for name, function, options in norms() for parameter in ("scale", "bias")
    if (name, parameter) != ("rms", "bias")
  ],
  *[
    (f"scale_of_integers_{name}", function, (IMAGES,),
     options | {"scale": jax.ShapeDtypeStruct((6,), jnp.int32)}, TypeError,
     "scale must be floating, got int32")
    for name, function, options in norms()
  ],
  *[
    (f"complex_scale_{name}", function, (IMAGES,),
     options | {"scale": jax.ShapeDtypeStruct((6,), jnp.complex64)}, TypeError,
     "scale is complex64 but x is float32.*real part")
    for name, function, options in norms()
  ],
  ("real_stats_of_complex", train,
   (jax.ShapeDtypeStruct((4, 6), jnp.complex64),), {"stats": STATS}, TypeError,
   "stats.mean is float32 but x is complex64.*complex mean"),
  ("scale_does_not_broadcast", normjax.layer_norm, (ROWS, WIDE), {},
   ValueError, r"scale must have shape \(6,\).*got \(1, 6\)"),
  ("scale_order", normjax.layer_norm,
   (IMAGES, jax.ShapeDtypeStruct((6, 3), jnp.float32)),
   {"feature_axes": (-1, 1)}, ValueError, r"\(3, 6\).*\(6, 3\)"),
  *[
    (f"{option}_{name}", function, (ROWS,), {option: axes}, ValueError, message)
    for option, function in (
      ("reduction_axes", normjax.layer_norm),
      ("feature_axes", normjax.layer_norm),
      ("reduction_axes", normjax.rms_norm), ("axis", train),
      ("axes", normjax.moments), ("axes", normjax.standardize),
      ("channel_axis", normjax.instance_norm),
    )
    for name, axes, message in (
      (f"{function.__name__}_high", 2, rf"{option}=2.*2 axes.*-2 to 1"),
      (f"{function.__name__}_low", -3, rf"{option}=-3.*-2 to 1"),
      (f"{function.__name__}_twice", (1, -1), rf"{option}=\(1, -1\).*twice"),
      (f"{function.__name__}_none", (), rf"{option}.*empty.*at least one"),
    )
  ],
  *[
    (f"{option}_{name}", function, (ROWS,), {option: axes}, TypeError,
     rf"{option} must be an integer, or several, got .*-1 is the last")
    for option, function in (
      ("reduction_axes", normjax.layer_norm), ("axis", train),
      ("axes", normjax.moments), ("channel_axis", normjax.group_norm),
    )
    for name, axes in (
      ("float", 1.0), ("nothing", None), ("text", "channels"),
      ("nested", ((0,), 1)),
    )
  ],
  ("channel_axes_group", normjax.group_norm, (IMAGES,),
   {"channel_axis": (1, 2), "num_groups": 2}, ValueError,
   r"one axis of channels, got channel_axis=\(1, 2\).*reduction_axes"),
  ("channel_axis_group", normjax.group_norm, (IMAGES,),
   {"channel_axis": 4, "num_groups": 3}, ValueError, "channel_axis=4.*-4 to 3"),
  ("reduction_axes_group", normjax.group_norm, (IMAGES,),
   {"reduction_axes": (1, 7), "num_groups": 3}, ValueError, "-4 to 3"),
  ("reduction_axes_without_channels", normjax.group_norm, (IMAGES,),
   {"reduction_axes": (1, 2), "num_groups": 3}, ValueError,
   r"channel_axis=-1.*reduction_axes=\(1, 2\).*\(2, 3, 4, 6\)"),
  ("channels_are_the_batch", normjax.group_norm, (IMAGES,),
   {"channel_axis": 0, "num_groups": 1}, ValueError, "channel_axis=0"),
  ("groups", normjax.group_norm, (IMAGES,), {"num_groups": 4}, ValueError,
   r"num_groups=4.*6 channels.*\[1, 2, 3, 6\]"),
  ("groups_default", normjax.group_norm, (IMAGES,), {}, ValueError,
   "num_groups=32.*6 channels"),
  ("groups_zero", normjax.group_norm, (IMAGES,), {"num_groups": 0}, ValueError,
   "num_groups=0"),
  *[
    (f"groups_{name}", normjax.group_norm, (IMAGES,), {"num_groups": groups},
     TypeError, "num_groups must be an integer, got ")
    for name, groups in (("float", 2.0), ("text", "2"), ("shape", (2, 3)))
  ],
  ("groups_and_channels", normjax.group_norm, (IMAGES,),
   {"num_groups": 3, "group_size": 6}, ValueError, "channels is taken from x"),
  ("groups_negative", normjax.group_norm, (IMAGES,), {"num_groups": -2},
   ValueError, "num_groups=-2"),
  ("group_size", normjax.group_norm, (IMAGES,),
   {"num_groups": None, "group_size": 5}, ValueError, "group_size=5"),
  ("groups_and_size", normjax.group_norm, (IMAGES,),
   {"num_groups": 3, "group_size": 2}, ValueError, "exactly one.*None"),
  ("neither_groups_nor_size", normjax.group_norm, (IMAGES,),
   {"num_groups": None}, ValueError, "exactly one"),
  ("instance_without_space", normjax.instance_norm, (ROWS,), {}, ValueError,
   r"spatial axis.*\(4, 6\).*layer_norm or group_norm"),
  ("instance_of_the_batch", normjax.instance_norm, (IMAGES,),
   {"channel_axis": 0}, ValueError, r"channel_axis=0.*batch.*x\[None\]"),
  # https://github.com/pytorch/pytorch/issues/1381: flax.linen is silent.
  ("one_value", train, (WIDE,), {}, ValueError,
   r"\(1, 6\).*one value per channel.*larger batch.*use_running_average"),
  ("one_value_per_pixel", train, (IMAGES,), {"axis": (0, 1, 2, 3)}, ValueError,
   "one value per channel"),
  ("evaluation_without_stats", normjax.batch_norm, (ROWS,),
   {"use_running_average": True}, ValueError, "stats=None.*BatchStats"),
  *[
    (f"stats_{name}_{mode}", normjax.batch_norm, (ROWS,),
     {"stats": stats, "use_running_average": mode}, TypeError,
     rf"normjax.BatchStats, got {name}.*normjax.BatchStats\(mean, var\)")
    for name, stats in (
      ("tuple", tuple(STATS)), ("list", list(STATS)), ("dict", STATS._asdict()),
      ("Standardized", Standardized(*STATS)),
    )
    for mode in (False, True)
  ],
  ("stats_of_none", train, (ROWS,),
   {"stats": normjax.BatchStats(None, STATS.var)}, TypeError,
   "stats.mean must be an array, got None"),
  *[
    (f"momentum_{name}", train, (ROWS,), {"stats": STATS, "momentum": momentum},
     ValueError, f"between 0 and 1, got {message}.*old.*kept.*PyTorch's.*0.9")
    for name, momentum, message in (
      ("high", 1.5, "1.5"), ("low", -0.1, "-0.1"), ("nan", np.nan, "nan"),
      ("none", None, "None"), ("many", np.full(6, 0.5), r"\[0.5"),
      ("of_numpy", np.float32(2), "2.0"),
    )
  ],
  *[
    (f"mode_{name}", normjax.batch_norm, (ROWS,),
     {"stats": STATS, "use_running_average": mode}, TypeError,
     rf"False \(training\) or True \(evaluation\), got {mode!r}")
    for name, mode in (("integer", 8), ("none", None), ("text", "False"))
  ],
  ("stats_shape", train, (ROWS, None, None, normjax.BatchStats(FIVE, FIVE)),
   {}, ValueError, r"stats.mean must have shape \(6,\).*\(5,\)"),
  ("stats_of_half", train,
   (ROWS, None, None, normjax.BatchStats(
     STATS.mean, jax.ShapeDtypeStruct((6,), jnp.bfloat16))),
   {}, TypeError, "stats.var must be float32 or wider, got bfloat16"),
  ("stats_of_integers", train,
   (ROWS, None, None, normjax.BatchStats(
     jax.ShapeDtypeStruct((6,), jnp.int32), STATS.var)),
   {}, TypeError, "stats.mean must be floating, got int32"),
  ("ddof", normjax.layer_norm, (jax.ShapeDtypeStruct((4, 1), jnp.float32),),
   {"ddof": 1}, ValueError, r"ddof=1.*\(4, 1\)"),
  ("moments_of_integers", normjax.moments, (INTEGERS,), {"axes": 1}, TypeError,
   r"moments.*int32\[4, 6\]"),
  ("standardize_integers", normjax.standardize, (INTEGERS,), {"axes": 1},
   TypeError, r"standardize.*int32\[4, 6\]"),
  ("group_of_one", normjax.group_norm, (ROWS,), {"num_groups": 6}, ValueError,
   "one element per group.*bias whatever x is"),
  ("instance_of_one", normjax.instance_norm,
   (jax.ShapeDtypeStruct((2, 1, 1, 6), jnp.float32),), {}, ValueError,
   r"\(2, 1, 1, 6\): one element per group"),
  ("standardize_epsilon", normjax.standardize, (ROWS,),
   {"axes": 1, "epsilon": 0.0}, ValueError, "positive, got 0.0"),
  ("standardize_ddof", normjax.standardize, (ROWS,), {"axes": 1, "ddof": 6},
   ValueError, "ddof=6"),
  ("merged_arrays", normjax.merge_moments, (ROWS, ROWS), {}, TypeError,
   "merge_moments needs two Moments"),
  ("update_of_none", normjax.update_stats, (None, MOMENTS), {}, TypeError,
   r"stats=None.*normjax.BatchStats\(jnp.zeros"),
  ("update_of_tuple", normjax.update_stats, (Standardized(*STATS), MOMENTS),
   {}, TypeError, "got Standardized.*DebiasedStats or Moments"),
  ("update_by_stats", normjax.update_stats, (STATS, STATS), {}, TypeError,
   "Moments of the batch, as normjax.moments.*got BatchStats"),
  ("update_shape", normjax.update_stats,
   (normjax.BatchStats(STATS.mean, FIVE), MOMENTS), {}, ValueError,
   r"stats.var has shape \(5,\).*have \(6,\).*all axes but"),
  ("update_momentum", normjax.update_stats, (STATS, MOMENTS),
   {"momentum": 9}, ValueError, "between 0 and 1, got 9"),
  ("stats_shape_of_moments", train,
   (ROWS, None, None, MOMENTS._replace(m2=FIVE)), {}, ValueError,
   r"stats.m2 must have shape \(6,\).*\(5,\)"),
  ("moments_name", normjax.moments, (ROWS,), {"axes": 1, "axis_name": "who"},
   NameError, "'who'.*not bound"),
)  # fmt: skip


def concrete(value):
  if isinstance(value, jax.ShapeDtypeStruct):
    return np.ones(value.shape, value.dtype)
  return value


class ErrorsTest(parameterized.TestCase):
  @parameterized.named_parameters(*CALLS)
  def test_message(self, function, args, options, error, message):
    is_array = lambda v: any(
      isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(v)
    )
    arrays = {k: v for k, v in options.items() if is_array(v)}
    static = {k: v for k, v in options.items() if not is_array(v)}
    with self.assertRaisesRegex(error, f"(?s){message}"):
      jax.eval_shape(lambda a, o: function(*a, **o, **static), args, arrays)
    args, arrays = jax.tree.map(concrete, (args, arrays))
    with self.assertRaisesRegex(error, f"(?s){message}"):
      function(*args, **arrays, **static)

  def test_one_value_over_all_devices(self):
    f = jax.vmap(lambda x: train(x, axis_name="i"), axis_name="i")
    with self.assertRaisesRegex(ValueError, "one value per channel"):
      f(np.ones((1, 1, 6), np.float32))
    f(np.ones((2, 1, 6), np.float32))

  def test_evaluation_needs_no_name_and_no_batch(self):
    stats = jax.tree.map(concrete, STATS)
    y, new = normjax.batch_norm(
      np.full((1, 6), 3, np.float32), stats=stats, use_running_average=True,
      axis_name="who",
    )  # fmt: skip
    np.testing.assert_allclose(y, 2 / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(new.mean, stats.mean)
    np.testing.assert_array_equal(new.var, stats.var)

  def test_options_are_keywords(self):
    x = np.ones((4, 6), np.float32)
    with self.assertRaises(TypeError):
      normjax.layer_norm(x, None, None, -1)
    with self.assertRaises(TypeError):
      normjax.batch_norm(x)
