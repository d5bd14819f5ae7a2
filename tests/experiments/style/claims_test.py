"""The claims about style: effects that are there, and effects that are not."""

import contextlib
import io
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab import study
from experiments.style import __main__ as style
from experiments.style import claims

SEEDS = 10


def arm(loss, faint=None, change=0.5, apart=0.0, styles=1, seed=0):
  """Returns a made-up arm with these means over seeds."""
  rng = np.random.default_rng(seed)

  def around(mean, *shape):
    return mean * rng.uniform(0.97, 1.03, (SEEDS, *shape))

  losses = around(loss, styles)
  return {
    "loss": losses,
    "faint": losses * (1.0 if faint is None else faint / loss),
    "change": around(change),
    "apart": np.full(SEEDS, apart),
    **dict.fromkeys(("style", "content", "running", "pictures"), losses),
  }


def made_up(**changed):
  """Returns arms in which every claim holds, but for some that are changed."""
  found = {
    "none": arm(0.5, seed=1),
    "bn": arm(0.5, faint=0.7, seed=2),
    "in": arm(0.3, change=0.001, seed=3),
    "in, stripes": arm(0.3, seed=4),
    "in, dots": arm(0.3, seed=5),
    "one_net": arm(0.33, styles=3, seed=6),
    "told": arm(0.6, styles=3, seed=7),
    **changed,
  }
  names = {"one_net": "one net", "told": "told at the input"}
  found = {names.get(name, name): part for name, part in found.items()}
  return {**found, "separate nets": style.together(found)}


def outcomes(found):
  """Returns the verdicts by claim, and the checks that hold."""
  with tempfile.TemporaryDirectory() as folder:
    run = study.Run(pathlib.Path(folder))
    with contextlib.redirect_stdout(io.StringIO()):
      claims.judge(found, run)
      summary = run.finish({})
  verdicts = {made["claim"]: made["verdict"] for made in summary["findings"]}
  return verdicts, [
    made["check"] for made in summary["checks"] if made["holds"]
  ]


class ClaimsTest(parameterized.TestCase):
  def test_effects_that_are_there(self):
    verdicts, holds = outcomes(made_up())
    names = [claim.name for claim in claims.CLAIMS]
    self.assertEqual(verdicts, dict.fromkeys(names, "CONFIRMED"))
    self.assertEqual(holds, [check.name for check in claims.CHECKS])

  @parameterized.parameters(
    ("lower_than_bn", {"bn": arm(0.3, seed=8)}, "UNRESOLVED"),
    ("lower_than_bn", {"bn": arm(0.32, seed=8)}, "SMALLER THAN CLAIMED"),
    ("lower_than_none", {"none": arm(0.2)}, "REFUTED"),
    ("faint_with_bn", {"bn": arm(0.5, faint=0.45)}, "REFUTED"),
    ("one_net", {"one_net": arm(0.4, styles=3)}, "REFUTED"),
    ("told_at_the_norms", {"told": arm(0.33, styles=3)}, "UNRESOLVED"),
  )
  def test_an_effect_that_is_not(self, claim, changed, expected):
    self.assertEqual(outcomes(made_up(**changed))[0][claim], expected)

  @parameterized.parameters(
    ("input_erased", {"told": arm(0.6, apart=0.1, styles=3)}),
    ("contrast_changes", {"in": arm(0.3, change=0.1)}),
    ("faint_with_in", {"in": arm(0.3, faint=0.31)}),
  )
  def test_a_check_that_fails(self, check, changed):
    self.assertNotIn(check, outcomes(made_up(**changed))[1])

  def test_separate_nets_are_the_nets_of_one_style_side_by_side(self):
    found = made_up()
    each = [found[name]["loss"] for name in ("in", "in, stripes", "in, dots")]
    np.testing.assert_array_equal(
      found["separate nets"]["loss"], np.concatenate(each, axis=1)
    )


if __name__ == "__main__":
  absltest.main()
