"""Frozen batch norms, of normjax and of Flax, in models of any form."""

import functools
from typing import Any

import chex
import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

from normjax.linen import (
  BatchNorm,
  GroupNorm,
  fold,
  frozen,
  frozen_mask,
  reestimate,
)
from tests.linen.cases import call

KEY = jax.random.key(0)
X = jnp.asarray(
  np.random.default_rng(0).normal(3.0, 2.0, (6, 4)).astype("float32")
)
MASK = jnp.arange(6)[:, None] < jnp.array([4, 6, 3, 5])[None]
KINDS = {"ours": BatchNorm, "flax": nn.BatchNorm}


class Block(nn.Module):
  """A batch norm that gets its mode in one of three ways."""

  kind: Any = BatchNorm
  given: str = "field"

  @nn.compact
  def __call__(self, x, train):
    x = nn.Dense(4)(x)
    if self.given == "field":
      return self.kind(use_running_average=not train)(x)
    if self.given == "argument":
      return self.kind()(x, not train)
    return self.kind()(x=x, use_running_average=not train)


class Net(nn.Module):
  """Two blocks; each may be in evaluation while the other trains."""

  kind: Any = BatchNorm
  given: str = "field"

  @nn.compact
  def __call__(self, x, encoder=True, head=True):
    x = Block(self.kind, self.given, name="encoder")(x, encoder)
    return Block(self.kind, self.given, name="head")(nn.relu(x), head)


class Twin(nn.Module):
  """A block that looks the same everywhere."""

  @nn.compact
  def __call__(self, x):
    return BatchNorm(use_running_average=False)(nn.Dense(4)(x))


class Twins(nn.Module):
  """Two blocks of one class."""

  block: Any

  @nn.compact
  def __call__(self, x):
    return self.block(name="b")(self.block(name="a")(x))


@functools.cache
def variables_of(kind):
  """Returns variables with statistics that are not those of `X`."""
  variables = Net(kind).init(KEY, X)
  variables["batch_stats"] = jax.tree.map(
    lambda leaf: leaf + 0.5, variables["batch_stats"]
  )
  return variables


def differ(tree, other):
  """Returns names of the modules whose leaves are not all the same."""
  return {
    name
    for name in tree
    if any(
      np.any(a != b)
      for a, b in zip(
        jax.tree.leaves(tree[name]), jax.tree.leaves(other[name]), strict=True
      )
    )
  }


class FrozenTest(parameterized.TestCase):
  @parameterized.product(
    kind=tuple(KINDS), given=("field", "argument", "keyword"), jit=(True, False)
  )
  def test_is_evaluation_of_what_is_chosen(self, kind, given, jit):
    model, variables = Net(KINDS[kind], given), variables_of(KINDS[kind])

    def step(variables, x, encoder):
      def loss(params):
        y, updates = call(
          model, {**variables, "params": params}, x, encoder=encoder
        )
        return jnp.sum(jnp.sin(y)), (y, updates)

      return jax.grad(loss, has_aux=True)(variables["params"])

    if jit:
      step = jax.jit(step, static_argnums=2)
    expected = step(variables, X, False)
    with frozen("encoder"):
      found = step(variables, X, True)
    chex.assert_trees_all_equal(found, expected)
    _, (_, updates) = found
    self.assertEqual(
      differ(updates["batch_stats"], variables["batch_stats"]), {"head"}
    )

  def test_a_compiled_step_knows_where_it_is_called(self):
    """Its cache would silently give what was traced elsewhere."""
    variables = variables_of(BatchNorm)

    @jax.jit
    def step(x):
      return call(Net(), variables, x)[1]["batch_stats"]

    def trained():
      return differ(step(X), variables["batch_stats"])

    self.assertEqual(trained(), {"encoder", "head"})
    for _ in range(2):
      with frozen("head"):
        self.assertEqual(trained(), {"encoder"})
        with frozen("encoder"):
          self.assertEqual(trained(), set())
        self.assertEqual(trained(), {"encoder"})
      self.assertEqual(trained(), {"encoder", "head"})

  def test_in_modules_that_flax_compiles(self):
    model = nn.jit(Net)()
    variables = variables_of(BatchNorm)
    for _ in range(2):  # The second time, no module is called.
      with frozen("head"):
        for _ in range(2):
          _, updates = call(model, variables, X)
          self.assertEqual(
            differ(updates["batch_stats"], variables["batch_stats"]),
            {"encoder"},
          )
    _, updates = call(model, variables, X)
    self.assertLen(differ(updates["batch_stats"], variables["batch_stats"]), 2)

  @parameterized.product(frozen_one=("a", "b"), jit=(True, False))
  def test_one_of_two_places_of_a_block_that_flax_compiles(
    self, frozen_one, jit
  ):
    """Flax traces blocks that look the same once, wherever they are."""
    model = Twins(nn.jit(Twin))
    apply = functools.partial(model.apply, mutable=["batch_stats"])
    if jit:
      apply = jax.jit(apply)
    variables = model.init(KEY, X)
    for which in (frozen_one, [BatchNorm, frozen_one]):
      with frozen(which):
        _, updates = apply(variables, X)
      trained = differ(updates["batch_stats"], variables["batch_stats"])
      kept = {frozen_one} if which == frozen_one else {"a", "b"}
      self.assertEqual(trained, {"a", "b"} - kept)
    with frozen("*"), frozen(frozen_one):
      _, updates = apply(variables, X)
    chex.assert_trees_all_equal(
      updates["batch_stats"], variables["batch_stats"]
    )

  @parameterized.parameters("a", "no*")
  def test_a_model_that_is_called_twice(self, which):
    """As without, and nothing else is in the collection."""
    model = Twins(nn.jit(Twin))
    variables = model.init(KEY, X)
    twice = nn.apply(
      lambda model, x: model(model(x)), model, mutable=["batch_stats"]
    )
    _, expected = twice(variables, X)
    with frozen(which, missing_ok=True):
      _, updates = twice(variables, X)
    chex.assert_trees_all_equal_structs(updates, expected)
    self.assertEqual(
      differ(updates["batch_stats"], variables["batch_stats"]),
      {"a", "b"} - {which},
    )
    if which != "a":
      chex.assert_trees_all_equal(updates, expected)

  @parameterized.parameters(
    (None, set()),
    ("*", set()),
    ("head/BatchNorm_0", {"encoder"}),
    ("head/*", {"encoder"}),
    ("head", {"encoder"}),
    ("*/BatchNorm_?", set()),
    (["head", "hea*"], {"encoder"}),
    (BatchNorm, set()),
    ({BatchNorm}, set()),
    ((nn.BatchNorm, "encoder"), {"head"}),
    (lambda path: path[0] == "head" and len(path) == 2, {"encoder"}),
  )
  def test_which(self, which, trained):
    variables = variables_of(BatchNorm)
    with frozen(which):
      _, updates = call(Net(), variables, X)
    self.assertEqual(
      differ(updates["batch_stats"], variables["batch_stats"]), trained
    )

  def test_is_a_decorator(self):
    variables = variables_of(BatchNorm)
    for step in (
      frozen("head")(jax.jit(functools.partial(call, Net()))),
      jax.jit(frozen("head")(functools.partial(call, Net()))),
    ):
      for _ in range(2):
        _, updates = step(variables, X)
        self.assertEqual(
          differ(updates["batch_stats"], variables["batch_stats"]), {"encoder"}
        )

  def test_masked_places_count_for_nothing(self):
    norm = BatchNorm(use_running_average=False)
    variables = norm.init(KEY, X)
    dirty = jnp.where(MASK, X, jnp.nan)
    with frozen():
      y, updates = call(norm, variables, dirty, mask=MASK)
    chex.assert_trees_all_equal(
      updates["batch_stats"], variables["batch_stats"]
    )
    expected = np.where(MASK, np.float64(X) / np.sqrt(1 + 1e-5), 0)
    np.testing.assert_allclose(y, expected, rtol=1e-6)

  def test_gradient_is_that_of_an_affine_map(self):
    norm = BatchNorm(use_running_average=False, use_scale=False)
    variables = norm.init(KEY, X)
    variables["batch_stats"]["var"] = jnp.array([1.0, 4.0, 9.0, 16.0])
    with frozen():
      dx = jax.grad(lambda x: jnp.sum(call(norm, variables, x)[0]))(X)
    expected = np.broadcast_to([[1, 1 / 2, 1 / 3, 1 / 4]], X.shape)
    np.testing.assert_allclose(dx, expected, rtol=1e-4)


class LiftedTest(parameterized.TestCase):
  @parameterized.parameters(*KINDS)
  def test_scan_remat_and_vmap(self, kind):
    kind = KINDS[kind]

    class Layer(nn.Module):
      @nn.compact
      def __call__(self, x, _):
        return x + nn.remat(Block, static_argnums=2)(kind)(x, True), None

    class Stack(nn.Module):
      @nn.compact
      def __call__(self, x):
        own = {"params": 0, "batch_stats": 0}
        scanned = nn.scan(
          Layer, variable_axes=own, split_rngs={"params": True}, length=2
        )
        x, _ = scanned(name="scanned")(x, None)
        mapped = nn.vmap(
          kind, variable_axes=own, split_rngs={"params": True}, axis_size=2
        )
        x = jnp.stack([x, 2 * x])
        return mapped(use_running_average=False, name="mapped")(x)

    variables = Stack().init(KEY, X)
    for chosen in ("scanned", "mapped"):
      with frozen(chosen):
        _, updates = jax.jit(functools.partial(call, Stack()))(variables, X)
      self.assertEqual(
        differ(updates["batch_stats"], variables["batch_stats"]),
        {"scanned", "mapped"} - {chosen},
      )
      mask = frozen_mask(variables, chosen)
      self.assertEqual(
        {name for name in mask if any(jax.tree.leaves(mask[name]))}, {chosen}
      )


class MaskTest(parameterized.TestCase):
  @parameterized.parameters(*KINDS)
  def test_of_gains_and_biases(self, kind):
    variables = variables_of(KINDS[kind])
    frozen_norm = {"scale": True, "bias": True}
    dense = {"kernel": False, "bias": False}
    for convert in (lambda tree: tree, flax.core.freeze):
      mask = frozen_mask(convert(variables), "encoder")
      expected = {
        "encoder": {"Dense_0": dense, "BatchNorm_0": frozen_norm},
        "head": {
          "Dense_0": dense,
          "BatchNorm_0": {"scale": False, "bias": False},
        },
      }
      self.assertEqual(flax.core.unfreeze(mask), expected)

  def test_of_a_norm_that_shares_its_scope(self):
    """The kernels beside its gain and bias are not those of a norm."""

    class Block(nn.Module):
      def setup(self):
        self.dense, self.norm = nn.Dense(3), BatchNorm(True)
        nn.share_scope(self, self.norm)

      def __call__(self, x):
        return self.norm(self.dense(x))

    variables = Block().init(KEY, X)
    self.assertEqual(
      frozen_mask(variables),
      {
        "dense": {"bias": False, "kernel": False},
        "bias": True,
        "scale": True,
      },
    )
    with self.assertRaisesRegex(ValueError, "path of another module, as by nn"):
      fold(Block(), variables, X)

  def test_fine_tuning_changes_nothing_of_a_frozen_norm(self):
    model, variables = Net(), variables_of(BatchNorm)
    params = jax.tree.map(lambda leaf: leaf + 0.5, variables["params"])
    tx = optax.selective_transform(
      optax.adamw(0.1, weight_decay=0.1),
      freeze_mask=frozen_mask(variables, "encoder"),
    )

    @jax.jit
    @frozen("encoder")
    def step(params, stats, state):
      def loss(params):
        y, updates = call(model, {"params": params, "batch_stats": stats}, X)
        return jnp.sum(jnp.sin(y)), updates["batch_stats"]

      grads, stats = jax.grad(loss, has_aux=True)(params)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), stats, state

    new, stats, state = params, variables["batch_stats"], tx.init(params)
    with jax.numpy_dtype_promotion("standard"):  # For Adam.
      for _ in range(3):
        new, stats, state = step(new, stats, state)
    for name, kept in (("encoder", True), ("head", False)):
      same = lambda a, b, name=name: (
        not differ(a[name], b[name]) & {"BatchNorm_0"}
      )
      self.assertEqual(same(new, params), kept)
      self.assertEqual(same(stats, variables["batch_stats"]), kept)
      self.assertIn("Dense_0", differ(new[name], params[name]))

  def test_of_a_norm_that_is_the_model_and_of_boxes(self):
    norm = BatchNorm(
      use_running_average=True,
      scale_init=nn.with_partitioning(nn.initializers.ones, ("i",)),
    )
    mask = frozen_mask(norm.init(KEY, X))
    self.assertEqual(jax.tree.leaves(mask), [True, True])


class ErrorsTest(parameterized.TestCase):
  def test_nothing_chosen(self):
    variables = variables_of(BatchNorm)
    message = (
      "'encodr' chooses no batch norm of Net, which has encoder/BatchNorm_0,"
      " head/BatchNorm_0.*missing_ok"
    )
    for apply in (call, jax.jit(call, static_argnums=0)):
      with (
        self.assertRaisesRegex(ValueError, message),
        frozen("encodr"),
      ):
        apply(Net(), variables, X)
    norm = BatchNorm(use_running_average=False)
    of_norm = norm.init(KEY, X)
    with (
      self.assertRaisesRegex(ValueError, "BatchNorm, which has itself"),
      frozen("encodr"),
    ):
      call(norm, of_norm, X)
    with frozen("encodr", missing_ok=True):
      _, updates = call(Net(), variables, X)
    self.assertLen(differ(updates["batch_stats"], variables["batch_stats"]), 2)
    with self.assertRaisesRegex(ValueError, "'encodr' chooses no batch norm"):
      frozen_mask(variables, "encodr")
    mask = frozen_mask(variables, "encodr", missing_ok=True)
    self.assertFalse(any(jax.tree.leaves(mask)))

  def test_an_item_that_chooses_nothing(self):
    """Else a typing error would let a norm train."""
    variables = variables_of(BatchNorm)
    which = ["head", ("encodr", BatchNorm)]
    with (
      self.assertRaisesRegex(ValueError, "'encodr' chooses no .* of Net, .*ok"),
      frozen(which),
    ):
      call(Net(), variables, X)
    with frozen(which, missing_ok=True):
      call(Net(), variables, X)
    with frozen(["head", "encodr"]):
      Net().init(KEY, X)
    for tool in (
      frozen_mask,
      lambda variables, which: reestimate(Net(), variables, [X], which=which),
    ):
      with self.assertRaisesRegex(ValueError, "'encodr' chooses no batch norm"):
        tool(variables, ["head", "encodr"])

  def test_a_model_without_batch_norm_may_be_called(self):
    """So that a program with `--norm` needs no case for it."""
    with frozen("encoder"):
      GroupNorm(num_groups=2).init(KEY, X)

  def test_initializing_is_not_checked(self):
    expected = Net().init(KEY, X)
    for which in ("encoder", "nothing"):
      with frozen(which):
        chex.assert_trees_all_equal(Net().init(KEY, X), expected)

  @parameterized.parameters((3,), ({"encoder": True},), ([3],))
  def test_another_type(self, which):
    with (
      self.assertRaisesRegex(TypeError, "pattern of their path"),
      frozen(which),
    ):
      pass
    with self.assertRaisesRegex(TypeError, "pattern of their path"):
      frozen_mask(variables_of(BatchNorm), which)

  def test_variables_do_not_tell_classes(self):
    with self.assertRaisesRegex(TypeError, "got BatchNorm.*by their paths"):
      frozen_mask(variables_of(BatchNorm), BatchNorm)

  def test_params_alone_are_not_enough(self):
    params = variables_of(BatchNorm)["params"]
    with self.assertRaisesRegex(ValueError, "got 'encoder', 'head'"):
      frozen_mask(params)
    with self.assertRaisesRegex(ValueError, "which has none"):
      frozen_mask({"params": params})
