"""The engine carries what is to come: toys of four kinds of training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest
from flax import linen as nn

from experiments.lab.data.batch import Batch
from experiments.lab.models.nets import MLP
from experiments.lab.models.norms import norm_factory
from experiments.lab.training.batches import Drawn, Shuffled
from experiments.lab.training.engine import Engine
from experiments.lab.training.losses import cross_entropy
from experiments.lab.training.step import Update
from tests.experiments.lab.training import problems


class Adversaries(nn.Module):
  """A generator that shifts noise, a discriminator with a batch norm."""

  def setup(self):
    self.generator = nn.Dense(1)
    self.discriminator = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(1)])
    self.norm = nn.BatchNorm(momentum=0.5)

  def __call__(self, noise, *, train):
    return self.judged(self.generator(noise), train=train)

  def generate(self, noise):
    return self.generator(noise)

  def judged(self, samples, *, train):
    return self.discriminator(self.norm(samples, use_running_average=not train))


def adversarial(of_generator):
  """Returns the loss of one of two networks that train against each other."""

  def loss(model, variables, batch, key, train):
    noise = jax.random.normal(key, (len(batch), 1))
    fake = model.apply(variables, noise, method="generate")
    # One batch of both, so that they share the statistics.
    logits, updates = model.apply(
      variables,
      jnp.concatenate([fake, batch]),
      train=train,
      method="judged",
      mutable=["batch_stats"],
    )
    of_fake, of_real = jnp.split(logits, 2)
    cross = optax.sigmoid_binary_cross_entropy
    if of_generator:
      total = cross(of_fake, jnp.ones_like(of_fake)).sum()
    else:
      total = cross(of_fake, jnp.zeros_like(of_fake)).sum()
      total += cross(of_real, jnp.ones_like(of_real)).sum()
    name = "generator" if of_generator else "discriminator"
    count = jnp.float32(len(batch))
    return total / count, updates, {name: total, "count": count}

  return loss


class TwoNetworksTest(absltest.TestCase):
  def test_two_optimizers_alternate(self):
    """A GAN: the generator learns the mean of the data."""

    def draw(key, data, size):
      del data
      return 3 + 0.5 * jax.random.normal(key, (size, 1))

    engine = Engine(
      Adversaries(),
      [
        Update(
          adversarial(False),
          problems.adam(1e-2),
          trains=("discriminator", "norm"),
        ),
        Update(adversarial(True), optax.sgd(0.05), trains=("generator",)),
      ],
      Drawn(draw, None, 64),
      sample=np.zeros((2, 1), np.float32),
    )
    state = engine.init([0, 1])
    start = jax.tree.map(np.array, state.variables)
    state, records = engine.train(state, 1)
    self.assertEqual({*records.sums}, {"generator", "discriminator", "count"})
    # Each optimizer keeps the moments of its own parameters only.
    of_discriminator, of_generator = state.opt_state
    self.assertNotIn("generator", str(jax.tree.structure(of_discriminator)))
    self.assertEmpty(jax.tree.leaves(of_generator))
    for name in ("generator", "discriminator"):
      changed = jax.tree.map(
        lambda new, old: np.abs(new - old).max(),
        state.params[name],
        start["params"][name],
      )
      self.assertGreater(max(jax.tree.leaves(changed)), 0)
    mean = state.collections["batch_stats"]["norm"]["mean"]
    self.assertGreater(np.abs(mean).min(), 0.1)

    state, records = engine.train(state, 800)
    noise = jax.random.normal(jax.random.key(5), (1000, 1))
    for seed in range(2):
      variables = jax.tree.map(lambda leaf: leaf[seed], state.variables)  # noqa: B023
      samples = engine.model.apply(variables, noise, method="generate")
      self.assertAlmostEqual(float(samples.mean()), 3, delta=0.6)

  def test_an_update_leaves_the_others_parameters_alone(self):
    engine = Engine(
      Adversaries(),
      Update(adversarial(True), optax.sgd(0.1), trains=("generator",)),
      Drawn(lambda key, data, size: jnp.ones((size, 1)), None, 8),
      sample=np.zeros((2, 1), np.float32),
    )
    state = engine.init([0])
    before = jax.tree.map(np.array, state.params)
    state, _ = engine.train(state, 3)
    np.testing.assert_array_equal(
      state.params["discriminator"]["layers_0"]["kernel"],
      before["discriminator"]["layers_0"]["kernel"],
    )
    self.assertFalse(
      np.array_equal(
        state.params["generator"]["kernel"], before["generator"]["kernel"]
      )
    )


class Policy(nn.Module):
  """Scores of two actions, and the place of a walker that lives on."""

  @nn.compact
  def __call__(self, place, *, train):
    del train
    self.variable("world", "place", lambda: jnp.zeros((16, 1)))
    return nn.Dense(2)(place)


def walk(model, variables, batch, key, train):
  """Policy gradient: walk a step from where one is; the goal is at 2."""
  del batch
  place = variables["world"]["place"]
  logits = model.apply(
    {"params": variables["params"], "world": variables["world"]},
    place,
    train=train,
  )
  action = jax.random.categorical(key, logits)
  moved = place + 0.2 * (2 * action[:, None] - 1).astype(jnp.float32)
  reward = jnp.abs(place - 2)[:, 0] - jnp.abs(moved - 2)[:, 0]
  chosen = jnp.take_along_axis(
    jax.nn.log_softmax(logits), action[:, None], axis=1
  )[:, 0]
  count = jnp.float32(len(reward))
  metrics = {"reward": reward.sum(), "count": count}
  return -(chosen * reward).mean(), {"world": {"place": moved}}, metrics


class PolicyTest(absltest.TestCase):
  def test_data_are_drawn_inside_the_step(self):
    """A policy acts: its own actions, and the world, decide on the data."""
    engine = Engine(
      Policy(),
      Update(walk, optax.sgd(2.0)),
      Drawn(lambda key, data, size: None, None, 16),
      sample=np.zeros((16, 1), np.float32),
    )
    state, records = engine.train(engine.init([0, 1]), 300)
    rewards = records.sums["reward"] / records.sums["count"]
    self.assertGreater(rewards[:, :10].mean(), -0.1)
    place = np.asarray(state.collections["world"]["place"])
    np.testing.assert_allclose(place.mean(axis=(1, 2)), 2, atol=0.4)
    # It stays there by what it learned: left of the goal it goes right.
    logits = engine.model.apply(
      {"params": jax.tree.map(lambda leaf: leaf[0], state.params)}
      | {"world": {"place": jnp.zeros((16, 1))}},
      jnp.array([[0.0], [4.0]]),
      train=False,
    )
    right = np.asarray(jax.nn.softmax(logits))[:, 1]
    self.assertGreater(right[0], 0.8)
    self.assertLess(right[1], 0.2)


class OnlineTest(absltest.TestCase):
  def test_one_example_at_a_time_is_predicted_before_it_is_learned(self):
    engine = Engine(
      MLP(norm=norm_factory("ln"), hidden=(8,), num_classes=3),
      Update(cross_entropy(problems.prepare), optax.sgd(0.1)),
      Shuffled(problems.examples(300), 1, ordered=True),
      sample=np.zeros((1, 4, 4, 1), np.float32),
    )
    state = engine.init([0])
    first = engine.evaluate(state.variables, problems.examples(300).first(1))
    state, records = engine.train(state, 300)
    np.testing.assert_array_equal(records.sums["count"], np.ones((1, 300)))
    np.testing.assert_allclose(records.loss[0, 0], first["loss"][0], rtol=1e-5)
    losses = records.loss[0]
    self.assertLess(losses[-100:].mean(), 0.2 * losses[:20].mean())


class FrozenTest(absltest.TestCase):
  def test_part_of_the_parameters_is_frozen(self):
    """Fine-tuning: only the last layer learns."""

    def make(**options):
      return Engine(
        MLP(norm=norm_factory("bn"), hidden=(8,), num_classes=3),
        Update(cross_entropy(problems.prepare), optax.sgd(0.1), **options),
        Shuffled(problems.examples(44), 8),
        sample=np.zeros((1, 4, 4, 1), np.float32),
      )

    engine = make(trains=("Dense_1",))
    state = engine.init([0])
    before = jax.tree.map(np.array, state.params)
    state, records = engine.train(state, 60)
    for name in ("Dense_0", "BatchNorm_0"):
      jax.tree.map(
        np.testing.assert_array_equal, state.params[name], before[name]
      )
    self.assertLess(records.loss[0, -5:].mean(), records.loss[0, :5].mean())
    # With the whole net free, the frozen part does change.
    free = make()
    state, _ = free.train(free.init([0]), 60)
    kernel = state.params["Dense_0"]["kernel"]
    self.assertGreater(np.abs(kernel - before["Dense_0"]["kernel"]).max(), 0.01)

  def test_a_mask_of_optax_does_it_too(self):
    labels = lambda params: {
      name: "train" if name == "Dense_1" else "freeze" for name in params
    }
    optimizer = optax.partition(
      {"train": optax.sgd(0.1), "freeze": optax.set_to_zero()}, labels
    )
    engine = Engine(
      MLP(norm=norm_factory("ln"), hidden=(8,), num_classes=3),
      Update(cross_entropy(problems.prepare), optimizer),
      Shuffled(problems.examples(44), 8),
      sample=np.zeros((1, 4, 4, 1), np.float32),
    )
    state = engine.init([0])
    before = jax.tree.map(np.array, state.params)
    state, _ = engine.train(state, 5)
    jax.tree.map(
      np.testing.assert_array_equal,
      {**state.params, "Dense_1": None},
      {**before, "Dense_1": None},
    )
    moved = state.params["Dense_1"]["kernel"] - before["Dense_1"]["kernel"]
    self.assertGreater(np.abs(moved).max(), 0)


class BatchTest(absltest.TestCase):
  def test_counts_what_counts(self):
    targets = np.zeros((3, 4), np.int32)
    self.assertEqual(Batch(targets, targets).total, 12)
    counted = np.arange(12).reshape(3, 4) < 5
    self.assertEqual(Batch(targets, targets, counted).total, 5)
    self.assertEqual(Batch(targets, targets, counted).first(1).total, 4)


if __name__ == "__main__":
  absltest.main()
