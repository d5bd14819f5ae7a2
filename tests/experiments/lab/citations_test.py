"""What texts say of claims."""

from absl.testing import absltest

from experiments.lab import citations
from tests.experiments.lab import small_study

RECORD = small_study.record()
LOWER, EQUAL = RECORD["findings"]
(CHECK,) = RECORD["checks"]


def record(**lower):
  """Returns the record with another finding on the claim "lower"."""
  return {**RECORD, "findings": [{**LOWER, **lower}, EQUAL]}


OTHER_VALUES = {"norm": [0.0], "none": [1.0]}
VARIED = {
  "digits": {
    "default": RECORD,
    "steps=1": record(values=OTHER_VALUES),
    "steps=4": record(values=OTHER_VALUES, verdict="UNRESOLVED"),
    "gain=2": record(),  # Changes no sample.
    "gain=3": None,
  }
}


class CitedTest(absltest.TestCase):
  def test_counts_data_sets(self):
    refuted = {**LOWER, "verdict": "REFUTED"}
    other = {"findings": [refuted], "checks": [{**CHECK, "holds": False}]}
    self.assertEqual(
      citations.cited({"small": {"a": RECORD, "b": other}, "x": {}}),
      {
        ("small", "lower"): "CONFIRMED on 1 of 2, REFUTED on 1 of 2",
        ("small", "equal"): "REFUTED on 1 of 1",
        ("small", "identity"): "holds on 1 of 2",
      },
    )

  def test_counts_settings_of_headlines(self):
    found = {"small": {"digits": RECORD}}
    said = citations.cited(found, {"small": VARIED})
    self.assertEqual(
      said["small", "lower"],
      "CONFIRMED on 1 of 1; the same with 1 of 2 other settings",
    )
    self.assertEqual(said["small", "equal"], "REFUTED on 1 of 1")

  def test_names_one_setting(self):
    found = {"small": {"digits": RECORD}}
    said = citations.cited(found, {"small": VARIED})
    self.assertEqual(said["small", "lower, steps=4 on digits"], "UNRESOLVED")
    self.assertNotIn(("small", "lower, gain=3 on digits"), said)

  def test_names_a_repetition(self):
    repeated = {"gpu-jaxlib-9.0": {"digits": record(verdict="REFUTED")}}
    said = citations.cited(
      {"small": {"digits": RECORD}}, repeated={"small": repeated}
    )
    self.assertEqual(
      said["small", "lower, gpu-jaxlib-9.0 on digits"], "REFUTED"
    )


class AlikeTest(absltest.TestCase):
  def test_adds_up_data_sets(self):
    both = {"digits": VARIED["digits"], "mnist": VARIED["digits"]}
    self.assertEqual(
      citations.alike({"small": both}), {("small", "lower"): "2 of 4"}
    )


if __name__ == "__main__":
  absltest.main()
