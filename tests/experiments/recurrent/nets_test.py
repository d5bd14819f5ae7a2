"""The recurrent nets, compared with loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.recurrent import nets
from normjax.linen import reestimate

UNITS, STEPS = 3, 4
X = np.random.default_rng(0).normal(size=(5, STEPS, 2)).astype(np.float32)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def normalized(x, axis, epsilon):
  mean, var = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
  return (x - mean) / np.sqrt(var + epsilon)


NORMS = {
  "none": lambda x: x,
  "ln": functools.partial(normalized, axis=1, epsilon=1e-6),
  "step": lambda x: 0.1 * normalized(x, 0, nets.EPSILON),
}
NORMS["one"] = NORMS["step"]


def by_hand(cell, norm, params, x):
  """Returns the answers of a new net, whose biases are zero."""
  n = NORMS[norm]
  p = jax.tree.map(np.float64, params)
  kernel = {k: v["kernel"] for k, v in p["cell"].items() if "kernel" in v}
  h = c = np.zeros((len(x), UNITS))
  for step in range(x.shape[1]):
    a = h @ kernel["state"], x[:, step] @ kernel["input"]
    if cell == "rnn":
      h = np.tanh(n(a[0] + a[1]))
      continue
    gates = n(a[0]) + n(a[1])
    if cell == "gru":
      r, z = np.split(sigmoid(gates), 2, axis=1)
      new = n(x[:, step] @ kernel["input_new"])
      new = np.tanh(new + r * n(h @ kernel["state_new"]))
      h = z * h + (1 - z) * new
      continue
    i, f, o, g = np.split(gates, 4, axis=1)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(n(c))
  return h @ p["answer"]["kernel"]


def made(cell, norm, **options):
  make = nets.norm_of(norm, STEPS, **options)
  model = nets.Reader(cell, make, UNITS, 2)
  return model, model.init(jax.random.key(0), X[:, :2], train=False)


class NetsTest(parameterized.TestCase):
  @parameterized.product(cell=(*nets.CELLS,), norm=(*NORMS,))
  def test_is_the_loop(self, cell, norm):
    model, variables = made(cell, norm)
    y, _ = model.apply(variables, X, train=True, mutable=["batch_stats"])
    expected = by_hand(cell, norm, variables["params"], np.float64(X))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)

  def test_equal_seeds_have_equal_kernels(self):
    params = [made("lstm", norm)[1]["params"]["cell"] for norm in NORMS]
    for other in params[1:]:
      for name in ("state", "input", "bias"):
        jax.tree.map(
          np.testing.assert_array_equal, params[0][name], other[name]
        )

  def test_a_block_of_the_state_keeps_its_size(self):
    kernel = made("lstm", "none")[1]["params"]["cell"]["state"]["kernel"]
    np.testing.assert_allclose(
      kernel @ kernel.T, 4 * np.eye(UNITS), rtol=1e-5, atol=1e-5
    )

  @parameterized.parameters("none", "ln", "step", "one")
  def test_padding_is_as_if_it_were_not_there(self, norm):
    model, variables = made("lstm", norm)
    mask = jnp.asarray(np.arange(STEPS)[None] < np.array([[4, 4, 2, 2, 2]]).T)
    padded = jnp.where(mask[..., None], X, jnp.nan)
    evaluate = functools.partial(model.apply, variables, train=False)
    np.testing.assert_allclose(
      evaluate(padded, mask)[2:], evaluate(X[2:, :2]), rtol=1e-5
    )
    _, updates = model.apply(
      variables, padded, mask, train=True, mutable=["batch_stats"]
    )
    if norm != "step":
      return
    # The input of the third step: of the two sequences that have one.
    stats = updates["batch_stats"]["cell"]["StepBatchNorm_1"]
    kernel = variables["params"]["cell"]["input"]["kernel"]
    seen = np.float64(X[:2, 2] @ kernel)
    np.testing.assert_allclose(stats["mean"][2], seen.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats["weight"], 1, rtol=1e-5)

  def test_both_kinds_of_statistics(self):
    """They are the same in training; evaluation tells them apart."""
    (first, of_step), (second, of_all) = (
      made("rnn", norm) for norm in ("step", "one")
    )
    again = reestimate(first, of_step, [X], train=False)
    trained, _ = first.apply(of_step, X, train=True, mutable=["batch_stats"])
    evaluated = first.apply(again, X, train=False)
    np.testing.assert_allclose(evaluated, trained, rtol=1e-3, atol=1e-5)
    pooled = reestimate(second, of_all, [X], train=False)
    stats = pooled["batch_stats"]["cell"]["BatchNorm_0"]
    own = again["batch_stats"]["cell"]["StepBatchNorm_0"]
    self.assertEqual(stats["mean"].shape, own["mean"].shape[1:])
    np.testing.assert_allclose(
      stats["mean"], own["mean"].mean(0), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
      stats["var"],
      own["var"].mean(0) + np.asarray(own["mean"]).var(0),
      rtol=1e-3,
      atol=1e-6,
    )
    evaluated = second.apply(pooled, X, train=False)
    self.assertGreater(np.abs(evaluated - trained).max(), 1e-3)

  def test_later_steps_use_the_last_statistics_or_the_initial_ones(self):
    model, variables = made("rnn", "step")
    again = reestimate(model, variables, [X], train=False)
    longer = np.concatenate([X, X[:, -1:]], axis=1)
    answers = {}
    for kind, options in (("last", {}), ("initial", {"debias": False})):
      net = nets.Reader("rnn", nets.norm_of("step", 5, **options), UNITS, 2)
      stats = {
        name: np.concatenate([value, np.full((1, UNITS), initial, np.float32)])
        for (name, value), initial in zip(
          again["batch_stats"]["cell"]["StepBatchNorm_0"].items(),
          (0, 1, 0),
          strict=True,
        )
        if kind == "last" or name != "weight"
      }
      stats = {"cell": {"StepBatchNorm_0": stats}}
      answers[kind] = net.apply(
        {**again, "batch_stats": stats}, longer, train=False
      )
    short = model.apply(again, longer, train=False)
    np.testing.assert_allclose(answers["last"], short, rtol=1e-5)
    self.assertGreater(np.abs(answers["initial"] - short).max(), 1e-3)


if __name__ == "__main__":
  absltest.main()
