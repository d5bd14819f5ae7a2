"""One table of configured modules that every cross-cutting test runs over."""

import dataclasses
import functools
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np

import normjax.linen


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A module, its options and the input that it takes.

  Attributes:
    name: Ends the name of the test.
    kind: Name of the class in `normjax.linen`, and in `flax.linen` if it has a
      peer there.
    options: Fields, all of which the peer knows too.
    shape: Of the input.
    sharded_axis: An axis of size 8 that is averaged over and no feature axis,
      hence one that `axis_name` can replace; None where there is no such.
  """

  name: str
  kind: str
  options: dict[str, Any]
  shape: tuple[int, ...] = (2, 8, 4, 6)
  sharded_axis: int | None = 1

  @property
  def stateful(self):
    return self.kind in (
      "BatchNorm",
      "BatchRenorm",
      "DecorrelatedBatchNorm",
      "GhostBatchNorm",
      "IterNorm",
    )

  @property
  def num_features(self):
    """The sizes of the feature axes, as NNX modules take them."""
    axes = self.options.get("axis", self.options.get("feature_axes", -1))
    axes = axes if isinstance(axes, tuple | list) else [axes]
    sizes = tuple(
      self.shape[axis] for axis in sorted(i % len(self.shape) for i in axes)
    )
    return sizes if len(sizes) > 1 else sizes[0]

  def build(self, library=normjax.linen, train=True, **options):
    """Returns the Linen module of one of the two libraries."""
    mode = {"use_running_average": not train} if self.stateful else {}
    return getattr(library, self.kind)(**mode, **self.options, **options)

  def build_peer(self, train=True, **options):
    """Returns the module of Flax, with the better of its two algorithms."""
    options.setdefault("use_fast_variance", False)
    return self.build(flax.linen, train, **options)

  def input(self, seed=0, dtype="float32"):
    """Returns normal numbers."""
    values = np.random.default_rng(seed).normal(size=self.shape)
    return jnp.asarray(values.astype("float32")).astype(dtype)

  def mask(self):
    """Returns a mask where 70% count."""
    return jnp.asarray(np.random.default_rng(9).random(self.shape) < 0.7)

  @functools.cache  # noqa: B019
  def variables(self):
    """Returns variables with random parameters and statistics."""
    generator = np.random.default_rng(1)
    shapes = jax.eval_shape(self.build().init, jax.random.key(0), self.input())
    # Positive, since variances are among them.
    return jax.tree.map(
      lambda leaf: jnp.asarray(
        generator.uniform(0.5, 2.0, leaf.shape).astype(leaf.dtype)
      ),
      shapes,
    )


PEERED = (
  Case("layer", "LayerNorm", {}, (4, 6), None),
  Case("layer_channels", "LayerNorm", {"reduction_axes": (1, 2, 3)}),
  Case(
    "layer_elements",
    "LayerNorm",
    {"reduction_axes": [-1, -2], "feature_axes": [3, 2], "use_bias": False},
    sharded_axis=None,
  ),
  Case("layer_plain", "LayerNorm", {"use_bias": False, "use_scale": False},
       (4, 6), None),
  Case("rms", "RMSNorm", {"epsilon": 1e-3}, (4, 6), None),
  Case("rms_channels", "RMSNorm",
       {"reduction_axes": (1, 2), "feature_axes": (2, 3)}),
  Case("batch", "BatchNorm", {"momentum": 0.9, "epsilon": 1e-2}),
  Case("batch_vectors", "BatchNorm", {"use_scale": False}, (8, 6), 0),
  Case("batch_channels_first", "BatchNorm", {"axis": 1}, (8, 6, 2, 3), 0),
  Case("batch_two_axes", "BatchNorm", {"axis": (-1, 2)}),
  Case("group", "GroupNorm", {"num_groups": 3, "epsilon": 1e-2}),
  Case("group_size", "GroupNorm", {"num_groups": None, "group_size": 3}),
  Case("group_of_one_position", "GroupNorm",
       {"num_groups": 2, "reduction_axes": (-1,)}, sharded_axis=None),
  Case("instance", "InstanceNorm", {"epsilon": 1e-2}),
  Case("instance_channels_first", "InstanceNorm", {"feature_axes": 1},
       (2, 6, 8, 3), 2),
)  # fmt: skip
CASES = (
  *PEERED,
  Case("renorm", "BatchRenorm", {"r_max": 1.5, "d_max": 0.5}),
  Case("ghost", "GhostBatchNorm", {"ghost_size": 1}, (8, 4, 6), 0),
  Case("dbn", "DecorrelatedBatchNorm", {"num_groups": 2, "epsilon": 0.1}),
  Case("iternorm", "IterNorm", {"axis": 1, "iterations": 2}, (8, 6, 2, 3), 0),
)
ONE_OF_EACH = tuple(
  case
  for case in CASES
  if case.name
  in (
    "layer_channels",
    "rms_channels",
    "batch",
    "group",
    "instance",
    "ghost",
    "dbn",
  )
)
PEERED_ONE_OF_EACH = tuple(case for case in ONE_OF_EACH if case in PEERED)
STATEFUL = tuple(case for case in CASES if case.stateful)


def named(cases=CASES):
  """Returns the cases for `parameterized.named_parameters`."""
  return [(case.name, case) for case in cases]


def call(module, variables, *args, **options):
  """Applies a module; returns its output and whatever it updated."""
  return module.apply(variables, *args, mutable=["batch_stats"], **options)
