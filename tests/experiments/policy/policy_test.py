"""The study of policies: PPO, the cart-pole, claims whose effect is absent."""

import contextlib
import dataclasses
import functools
import io
import math
import pathlib
import tempfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab import study
from experiments.lab.errors import RefusedError
from experiments.policy import __main__ as policy
from experiments.policy import cart_pole, nets, ppo, training
from experiments.policy.agent import Agent
from experiments.policy.options import ARMS, Config, ScalesParser

SEEDS = 20
TINY = Config(
  hidden=(8,),
  environments=4,
  horizon=8,
  updates=2,
  epochs=2,
  batch_size=8,
  longest=40,
)


def made_up(returns, apart=0.01, same=0.0):
  """Returns made-up arms.

  Args:
    returns: Mean return by scale and arm; others have 480.
    apart, same: KL of bn, and of the arms without mismatch.
  """
  rng = np.random.default_rng(0)
  return {
    scale: {
      arm: {
        "return": rng.normal(returns.get((scale, arm), 480), 10, SEEDS),
        "divergence": rng.uniform(0.9, 1.1, (SEEDS, 3))
        * (apart if arm.startswith("bn") else same),
      }
      for arm in ARMS
    }
    for scale in (policy.NATURAL, policy.SCALED)
  }


def judged(found):
  with tempfile.TemporaryDirectory() as folder:
    run = study.Run(pathlib.Path(folder))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      policy.judge(found, run)
    verdicts = {finding.claim: finding.verdict for finding in run.findings()}
  return verdicts, printed.getvalue()


THERE = {
  (policy.SCALED, "none"): 40,
  (policy.NATURAL, "bn"): 380,
  (policy.NATURAL, "bn_batch"): 480,
}


class ClaimsTest(parameterized.TestCase):
  def test_effects_that_are_there(self):
    names = [claim.name for claim in policy.CLAIMS]
    found, printed = judged(made_up(THERE))
    self.assertEqual(found, dict.fromkeys(names, "CONFIRMED"))
    self.assertIn("HOLDS", printed)

  @parameterized.parameters(
    ("scales_matter", {(policy.SCALED, "none"): 480}, "UNRESOLVED"),
    ("scales_matter", {(policy.SCALED, "none"): 440}, "SMALLER THAN CLAIMED"),
    ("harmless_inputs", {(policy.SCALED, "inputs"): 300}, "REFUTED"),
    ("harmless_ln", {(policy.SCALED, "ln"): 40}, "REFUTED"),
    ("harmless_bn", {(policy.SCALED, "bn"): 380}, "REFUTED"),
    ("bn_hurts", {(policy.NATURAL, "bn"): 500}, "REFUTED"),
    ("ln_does_not_hurt", {(policy.NATURAL, "ln"): 300}, "REFUTED"),
    ("batches_help", {(policy.NATURAL, "bn_batch"): 40}, "REFUTED"),
  )
  def test_an_effect_that_is_not(self, claim, returns, expected):
    self.assertEqual(judged(made_up({**THERE, **returns}))[0][claim], expected)

  def test_a_norm_that_fails_on_both_is_not_harmless(self):
    fails = {(scale, "bn"): 20 for scale in (policy.NATURAL, policy.SCALED)}
    self.assertEqual(judged(made_up(fails))[0]["harmless_bn"], "REFUTED")

  def test_divergences(self):
    found, _ = judged(made_up(THERE, apart=0.001))
    self.assertEqual(found["bn_acts_otherwise"], "REFUTED")
    self.assertIn("FAILS", judged(made_up(THERE, same=0.001))[1])


class CartPoleTest(parameterized.TestCase):
  def test_the_equations_of_barto_sutton_and_anderson(self):
    """Their form: the cart's acceleration from that of the pole."""
    rng = np.random.default_rng(0)
    observed = rng.normal(0, [1, 1, 0.2, 1], (50, 4))
    actions = rng.integers(0, 2, 50)
    cart, pole, half, gravity = 1.0, 0.1, 0.5, 9.8
    expected = []
    for (x, speed, angle, turning), action in zip(
      observed, actions, strict=True
    ):
      force = 10.0 if action else -10.0
      sine, cosine = math.sin(angle), math.cos(angle)
      inner = (-force - pole * half * turning**2 * sine) / (cart + pole)
      spin = (gravity * sine + cosine * inner) / (
        half * (4 / 3 - pole * cosine**2 / (cart + pole))
      )
      pull = (force + pole * half * (turning**2 * sine - spin * cosine)) / (
        cart + pole
      )
      expected.append(
        [
          x + 0.02 * speed,
          speed + 0.02 * pull,
          angle + 0.02 * turning,
          turning + 0.02 * spin,
        ]
      )
    found = cart_pole.moved(
      jnp.asarray(observed, jnp.float32), jnp.asarray(actions)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(
    ("upright", [0, 0, 0, 0], 0, False, False),
    ("too far", [2.39, 1, 0, 0], 0, True, True),
    ("too steep", [0, 0, -0.2, -1], 0, True, True),
    ("cut off", [0, 0, 0, 0], 9, False, True),
  )
  def test_when_an_episode_ends(self, name, observed, steps, fell, ended):
    poles = cart_pole.CartPoles(
      jnp.asarray([observed], jnp.float32), jnp.asarray([steps], jnp.int32)
    )
    done = cart_pole.step(poles, jnp.array([1]), jax.random.key(0), 10)
    self.assertEqual((done.fell, done.ended), (fell, ended))
    self.assertEqual(done.length, steps + 1)
    self.assertEqual(done.poles.steps, 0 if ended else steps + 1)
    if ended:  # Anew, near zero; what was reached is kept for its value.
      self.assertLess(np.abs(done.poles.observed).max(), 0.05)
      self.assertGreater(np.abs(done.reached).max(), 0.05)

  def test_last_lengths(self):
    ended = jnp.array([[True, False, False], [True, False, True]])
    length = jnp.array([[5, 1, 2], [1, 2, 3]])
    zeros = jnp.zeros(())
    done = cart_pole.Step(None, zeros, zeros, ended, length)
    found = cart_pole.last_lengths(done, jnp.array([7, 8, 9]))
    np.testing.assert_array_equal(found, [1, 8, 3])


class PPOTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.rng = np.random.default_rng(0)

  def test_advantages_against_a_loop(self):
    t, n = 12, 5
    values, following = self.rng.normal(size=(2, t, n))
    rewards = self.rng.uniform(size=(t, n))
    ended = self.rng.uniform(size=(t, n)) < 0.25
    fell = ended & (self.rng.uniform(size=(t, n)) < 0.5)
    self.assertGreater((ended & ~fell).sum(), 0)
    expected = np.zeros((t, n))
    for env in range(n):
      for start in range(t):
        weight = 1.0
        for at in range(start, t):
          after = 0.0 if fell[at, env] else following[at, env]
          error = rewards[at, env] + 0.99 * after - values[at, env]
          expected[start, env] += weight * error
          weight *= 0.99 * 0.95
          if ended[at, env]:
            break
    found = ppo.advantages(
      *(jnp.asarray(x, jnp.float32) for x in (rewards, values, following)),
      jnp.asarray(fell),
      jnp.asarray(ended),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

  def batch(self, advantages, ratios):
    """Returns examples of action 0, and an answer with ratios to them."""
    then = np.full(len(ratios), 0.4)
    logits = lambda p: jnp.log(jnp.asarray(np.stack([p, 1 - p], 1), "float32"))
    zero = jnp.zeros(len(ratios))
    return (
      nets.Answer(logits(then * ratios), zero + 0.5),
      ppo.Rollout(
        zero,
        jnp.zeros(len(ratios), jnp.int32),
        logits(then),
        jnp.asarray(advantages, jnp.float32),
        zero + 1.5,
      ),
    )

  def test_loss_by_hand(self):
    ratios = np.array([1.5, 0.5, 1.1, 1.5])
    gain = np.array([1.0, 1.0, -1.0, -1.0])  # Already standardized.
    # Clipped to 1.2; the lower is taken; both as they are where that is worse.
    policy_loss = -np.mean([1.2, 0.5, -1.1, -1.5])
    p = 0.4 * ratios
    entropy = -np.mean(p * np.log(p) + (1 - p) * np.log(1 - p))
    expected = policy_loss + 0.5 * 1.0 - 0.01 * entropy
    np.testing.assert_allclose(
      ppo.loss(*self.batch(gain, ratios)), expected, rtol=1e-5
    )

  def test_divergence_of_a_policy_from_itself(self):
    logits = jnp.asarray(self.rng.normal(size=(6, 2)), jnp.float32)
    np.testing.assert_allclose(ppo.divergence(logits, logits), 0, atol=1e-7)
    self.assertGreater(ppo.divergence(logits, -logits).min(), 0)


class AgentTest(parameterized.TestCase):
  def test_standardized_inputs(self):
    """They are those before the rollout, for acting and for updating."""
    agent = Agent(ARMS["inputs"], TINY)

    @jax.jit
    def play(key):
      scales = jnp.asarray(TINY.units)
      before = agent.init(key, scales)
      params = jax.tree.map(lambda leaf: 10 * leaf, before.variables["params"])
      before = dataclasses.replace(before, variables={"params": params})
      after, seen = agent.rollout(before, scales, key)
      x = seen.observed.reshape(-1, 4)
      return (
        before,
        after,
        seen,
        agent.answer(after.variables, x, train=True)[0],
      )

    before, after, seen, answer = play(jax.random.key(0))
    count = TINY.environments * TINY.horizon
    self.assertEqual(before.seen.count[0], count)
    self.assertEqual(after.seen.count[0], 2 * count)
    first = np.asarray(before.poles.observed) * TINY.units
    mean, var = map(np.asarray, (before.seen.mean, before.seen.var))
    expected = (first - mean) / np.sqrt(var)
    np.testing.assert_allclose(seen.observed[0], expected, rtol=1e-3)
    acted = seen.logits.reshape(-1, 2)
    self.assertGreater(jnp.ptp(acted), 0.1)
    apart = ppo.divergence(acted, answer.logits)
    self.assertTrue(policy.SAME.outcome(np.abs(apart).max()).holds)

  @parameterized.parameters(
    ("none", True, True), ("ln", True, True), ("bn", True, False)
  )
  def test_whether_an_answer_depends_on_others(self, arm, acting, updating):
    agent = Agent(ARMS[arm], TINY)
    x = np.random.default_rng(0).normal(size=(4, 4)).astype("f")
    others = x * np.array([[1], [9], [9], [9]], "f")
    variables = jax.jit(functools.partial(agent.net.init, train=False))(
      jax.random.key(0), x
    )
    for train, alike in ((False, acting), (True, updating)):
      answer = jax.jit(functools.partial(agent.answer, train=train))
      one, other = (answer(variables, y)[0].value[0] for y in (x, others))
      self.assertEqual(bool(np.isclose(one, other, rtol=1e-5)), alike)

  def test_trains(self):
    config = dataclasses.replace(TINY, gain=10.0)
    with jax.numpy_dtype_promotion("standard"):  # Of optax.
      first, again, other = (
        training.train(ARMS["bn"], TINY.units, config, [rate], [0, 1])
        for rate in (1e-3, 1e-3, 1e-2)
      )
    chex.assert_trees_all_equal(first, again)
    chex.assert_shape(first["curve"], (1, 2, TINY.updates))
    for name in ("running", "re-estimated", "batch", "return", "validation"):
      chex.assert_shape(first[name], (1, 2))
    self.assertNotEqual(*first["return"][0])
    changes = np.abs(first["divergence"] - other["divergence"]).max(axis=(0, 1))
    self.assertEqual(changes[0], 0)  # Before the first update.
    self.assertGreater(changes[1], 0)
    self.assertFalse(policy.SAME.outcome(first["divergence"].min()).holds)
    np.testing.assert_array_equal(first["return"], -first["validation"])
    self.assertBetween(first["return"].min(), 1, TINY.longest)


class SettingsTest(parameterized.TestCase):
  def test_no_batch(self):
    config = dataclasses.replace(TINY, batch_size=33)
    with self.assertRaisesRegex(RefusedError, "give 32 observations"):
      policy.measure(config, study.Run(pathlib.Path("nowhere")))

  @parameterized.parameters("1,2,3", "1,1,1,0", "1,1,1,x")
  def test_wrong_scales(self, text):
    with self.assertRaises(ValueError):
      ScalesParser().parse(text)

  def test_scales(self):
    self.assertEqual(ScalesParser().parse("100,1,.5,1e-2"), (100, 1, 0.5, 0.01))


if __name__ == "__main__":
  absltest.main()
