"""Runs that were repeated with other arithmetic."""

import pathlib
import tempfile

from absl.testing import absltest

from experiments.lab import replications, results
from experiments.lab.errors import RefusedError
from tests.experiments.lab import small_study

RECORD = small_study.record()
LABEL = "gpu-jaxlib-9.0"


def elsewhere(record=RECORD):
  """Returns a record as a GPU with another jaxlib would have made it."""
  made_with = {**record["versions"], "backend": "gpu", "jaxlib": "9.0"}
  return {**record, "versions": made_with}


def repeated(record=RECORD):
  return replications.of_record(elsewhere(record), RECORD)


def with_rate(record, rate):
  choice = {**record["rates"]["norm"], "rate": rate}
  return {**record, "rates": {"norm": choice}}


class RecordTest(absltest.TestCase):
  def test_is_beside_the_committed_one(self):
    folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.assertEmpty(replications.read("small", folder))
    results.write(RECORD, folder)
    path = results.write(repeated(), folder)
    self.assertEqual(path, folder / f"small/replications/{LABEL}/digits.json")
    self.assertEqual(
      replications.read("small", folder), {LABEL: {"digits": repeated()}}
    )
    self.assertEqual(results.read(["small"], folder)["small"]["digits"], RECORD)

  def test_has_no_figures(self):
    self.assertEmpty({"figures", "checks"} & {*repeated()})

  def test_needs_another_backend_or_jaxlib(self):
    for record, original, message in (
      (RECORD, RECORD, "so it would show nothing new. Use --compare"),
      (elsewhere(), None, "no run of small on digits that this one could"),
      ({**elsewhere(), "change": {"steps": 4}}, RECORD, "of --sensitivity"),
    ):
      with self.assertRaisesRegex(RefusedError, message):
        replications.of_record(record, original)


class PairsTest(absltest.TestCase):
  def pairs(self, after):
    found = {"small": {"digits": RECORD}}
    paired = replications.pairs(found, {"small": {LABEL: {"digits": after}}})
    self.assertEqual([*paired], [LABEL])
    self.assertLen(paired[LABEL], 2)
    return paired[LABEL]

  def test_of_the_same_numbers_are_the_same(self):
    for pair in self.pairs(repeated()):
      self.assertEqual((pair.study, pair.data), ("small", "digits"))
      self.assertFalse(pair.changed or pair.opposite or pair.apart)
      self.assertEqual((pair.others, pair.arms), (0, 1))

  def test_show_what_differs(self):
    other = small_study.record(effect=-1.0)
    after = repeated({**other, "config": RECORD["config"]})
    lower, equal = self.pairs(after)
    self.assertEqual(lower.before["verdict"], "CONFIRMED")
    self.assertEqual(lower.after["verdict"], "REFUTED")
    self.assertTrue(lower.changed and lower.opposite and lower.apart)
    self.assertFalse(equal.changed or equal.opposite)

  def test_count_other_rates(self):
    for pair in self.pairs(with_rate(repeated(), 1.0)):
      self.assertEqual((pair.others, pair.arms), (1, 1))

  def test_refuses_what_repeats_no_committed_run(self):
    seeds = {**RECORD["config"], "seed": 120}
    after = repeated()
    for found in (
      {},
      {"small": {"mnist": RECORD}},
      {"small": {"digits": {**RECORD, "config": seeds}}},
    ):
      with self.assertRaisesRegex(
        RefusedError, f"small/replications/{LABEL}/digits.json has other seeds"
      ):
        replications.pairs(found, {"small": {LABEL: {"digits": after}}})

  def test_leave_out_claims_that_are_new(self):
    before = {**RECORD, "findings": RECORD["findings"][1:]}
    paired = replications.pairs(
      {"small": {"digits": before}}, {"small": {LABEL: {"digits": repeated()}}}
    )
    self.assertLen(paired[LABEL], 1)


if __name__ == "__main__":
  absltest.main()
