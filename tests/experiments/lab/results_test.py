"""Records of runs: written, read, judged again, compared."""

import dataclasses
import json
import pathlib
import tempfile

from absl.testing import absltest, parameterized

from experiments.lab import options, results
from experiments.lab.claims import Below, Effect
from experiments.lab.errors import RefusedError
from experiments.lab.runs import files
from tests.experiments.lab import small_study
from tests.experiments.lab.small_study import EQUAL, LOWER, STUDY

RECORD = small_study.record()


def temporary(test):
  return pathlib.Path(test.enter_context(tempfile.TemporaryDirectory()))


def with_config(**settings):
  return {**RECORD, "config": {**RECORD["config"], **settings}}


def with_claims(*claims):
  return dataclasses.replace(STUDY, claims=claims)


def differences(record, study):
  return results.differences(record, results.judged_anew(record, study))


def variation(steps=4, **settings):
  """Returns the record of a setting of --sensitivity."""
  changed = {"seeds": options.SENSITIVITY_SEEDS, "steps": steps, **settings}
  return {**with_config(**changed), "change": {"steps": steps}}


class RecordTest(parameterized.TestCase):
  def test_is_read_as_it_was_written(self):
    folder = temporary(self)
    path = results.write(RECORD, folder)
    self.assertEqual(path, folder / "small/digits.json")
    found = results.read(["other", "small"], folder)
    self.assertEqual(list(found), ["small"])
    record = found["small"]["digits"]
    self.assertEqual(record, RECORD)
    self.assertLen(record["findings"][0]["values"]["norm"], 10)
    self.assertContainsSubset(["commit", "processor"], record["machine"])
    self.assertEqual(record["rates"]["norm"]["rate"], 0.1)

  def test_replaces_that_of_the_same_data(self):
    folder = temporary(self)
    for minutes, data in ((1, "digits"), (2, "digits"), (3, None), (4, "a/b")):
      record = {**RECORD, "minutes": minutes, "data": data}
      results.write(record, folder)
    found = results.read(["small"], folder)["small"]
    minutes = {data: record["minutes"] for data, record in found.items()}
    self.assertEqual(minutes, {"digits": 2, "none": 3, "a_b": 4})

  def test_of_sensitivity_has_a_folder(self):
    folder = temporary(self)
    self.assertEmpty(results.read_varied("small", STUDY, folder))
    path = results.write(variation(), folder)
    self.assertEqual(path, folder / "small/sensitivity/digits/steps=4.json")
    self.assertEmpty(results.read(["small"], folder))
    found = results.read_varied("small", STUDY, folder)
    settings = dict.fromkeys(("default", "steps=1", "steps=4", "gain=0.1"))
    settings["steps=4"] = variation()
    self.assertEqual(found, {"digits": settings})

  def test_of_the_registered_run_stands_for_the_default(self):
    """Where it has the seeds of --sensitivity, and only if nothing is there."""
    alike = dataclasses.replace(STUDY, confirm={"seeds": 20, "seed": 100})
    for study, measured, expected in (
      (STUDY, None, None),
      (alike, None, {**RECORD, "change": {}}),
      (alike, variation(), variation()),
    ):
      varied = {"digits": {"default": measured, "gain=0.1": None}}
      found = results.with_default(varied, {"digits": RECORD}, study)
      self.assertEqual(
        found, {"digits": {"default": expected, "gain=0.1": None}}
      )

  def test_changed_by_hand_is_refused(self):
    folder = temporary(self)
    path = results.write(RECORD, folder)
    record = json.loads(path.read_text())
    record["findings"][0]["verdict"] = "REFUTED"
    path.write_text(json.dumps(record))
    with self.assertRaisesRegex(files.DamagedError, "digits.json is damaged"):
      results.read(["small"], folder)

  @parameterized.parameters(
    ({"seed": 99}, "began at seed 99.* seeds from 100 on.* with --confirm"),
    ({"steps": 7}, "--steps=7 instead of 2. Run it with --confirm, and w"),
    ({"seeds": 20}, "--seeds=20 instead of 10. Run it with --confirm, and w"),
  )
  def test_needs_the_registered_settings(self, settings, message):
    with self.assertRaisesRegex(RefusedError, message):
      results.of_summary("small", with_config(**settings), STUDY)

  @parameterized.parameters("0123abc+", None)
  def test_needs_a_commit(self, commit):
    summary = {**RECORD, "machine": {**RECORD["machine"], "commit": commit}}
    with self.assertRaisesRegex(RefusedError, "files that are in no commit"):
      results.of_summary("small", summary, STUDY)

  def test_needs_a_verdict_on_every_claim(self):
    first, _ = RECORD["findings"]
    for found, missing in (([first], "equal"), ([], "lower, equal")):
      with self.assertRaisesRegex(RefusedError, f"verdict on {missing}. What"):
        results.of_summary("small", {**RECORD, "findings": found}, STUDY)

  @parameterized.parameters(
    ({"seed": 99}, "began at seed 99"),
    ({"seeds": 4}, "--seeds=4 instead of 20. Run it with --sensitivity, and w"),
    ({"effect": 2.0}, "--effect=2.0 instead of 1.0. Run it with --sensitivity"),
    ({"steps": 7}, "has steps=7, which the study does not try. Run it again"),
  )
  def test_of_sensitivity_needs_the_registered_settings(
    self, settings, message
  ):
    record = results.of_summary("s", variation(), STUDY)
    self.assertEqual(record["change"], {"steps": 4})
    self.assertNotIn("figures", record)
    with self.assertRaisesRegex(RefusedError, message):
      results.of_summary("s", variation(**settings), STUDY)

  def test_refuses_rates_at_the_edge(self):
    edge = {**RECORD["rates"]["norm"], "interior": False}
    summary = {**RECORD, "rates": {**RECORD["rates"], "edge": edge}}
    with self.assertRaisesRegex(RefusedError, "rate of edge in the run of s"):
      results.of_summary("s", summary, STUDY)


class JudgedAgainTest(parameterized.TestCase):
  def test_equals_the_file(self):
    again = results.judged_again(RECORD, STUDY)
    self.assertEqual(
      files.plain([finding._asdict() for finding in again]),
      RECORD["findings"],
    )
    self.assertEmpty(differences(RECORD, STUDY))

  def test_shows_a_changed_margin(self):
    bolder = dataclasses.replace(LOWER, criterion=Effect(-1.5))
    study = with_claims(bolder, EQUAL)
    changes = "\n".join(differences(RECORD, study))
    self.assertIn(
      "small/lower on digits: rule is below -0.5 nats in the file, below -1.5"
      " nats when judged again",
      changes,
    )
    self.assertIn("verdict is CONFIRMED in the file, SMALLER THAN", changes)
    self.assertNotIn("small/equal", changes)

  @parameterized.parameters((1e-9, 0), (1e-3, 1))
  def test_allows_for_rounding(self, change, count):
    (first, *others) = RECORD["findings"]
    findings = [{**first, "low": first["low"] * (1 + change)}, *others]
    changes = differences({**RECORD, "findings": findings}, STUDY)
    self.assertLen(changes, count)

  def test_judges_checks_again(self):
    (check,) = STUDY.checks
    for criterion, expected in (
      (Below(1e-6), []),
      (
        Below(1e-9),
        [
          "small/identity on digits: rule is largest error below 1e-06 in the"
          " file, largest error below 1e-09 when judged again",
          "small/identity on digits: holds is True in the file, False when"
          " judged again",
        ],
      ),
    ):
      stricter = dataclasses.replace(check, criterion=criterion)
      study = dataclasses.replace(STUDY, checks=(stricter,))
      self.assertEqual(differences(RECORD, study), expected)
    with self.assertRaisesRegex(RefusedError, "has a check identity, which"):
      differences(RECORD, dataclasses.replace(STUDY, checks=()))

  def test_a_new_entry_is_a_difference(self):
    findings = [
      {key: value for key, value in found.items() if key != "uncounted"}
      for found in RECORD["findings"]
    ]
    changes = differences({**RECORD, "findings": findings}, STUDY)
    self.assertLen(changes, 2)
    self.assertIn("uncounted is None in the file", changes[0])

  def test_refuses_what_is_not_declared_any_more(self):
    renamed = dataclasses.replace(LOWER, samples=("norm", "bare"))
    for study in (with_claims(EQUAL), with_claims(EQUAL, renamed)):
      with self.assertRaisesRegex(
        RefusedError,
        "results/small has a claim lower of loss, norm minus none, which the"
        " study does not declare any more. Run the study again with --confirm.",
      ):
        results.judged_again(RECORD, study)

  def test_refuses_what_was_made_with_other_settings(self):
    study = dataclasses.replace(STUDY, confirm={"seed": 120, "seeds": 10})
    with self.assertRaisesRegex(RefusedError, "--seed=100 instead of 120"):
      results.judged_anew(RECORD, study)

  def test_judges_a_variation_with_its_settings(self):
    changes = differences(variation(), STUDY)
    self.assertLen(changes, 1)
    self.assertStartsWith(
      changes[0],
      "small/lower on digits (steps=4): sentence is after 2 steps, the loss is",
    )
    self.assertIn("when judged again", changes[0])


class ComparedTest(absltest.TestCase):
  def compared(self, name, old=None, **new):
    """Compares one finding, changed, with what it was."""
    (before,) = (f for f in RECORD["findings"] if f["claim"] == name)
    known = [{**before, **(old or {})}]
    (row,) = results.compared(
      {"findings": known}, {"findings": [{**before, **new}]}
    )
    return row

  def test_numbers_and_verdicts(self):
    number = RECORD["findings"][0]["number"]
    self.assertEqual(
      self.compared("lower"), ["lower", number, number, "same verdict"]
    )
    *_, comparison = self.compared("lower", verdict="REFUTED", low=0, high=1)
    self.assertEqual(comparison, "CONFIRMED -> REFUTED, intervals apart")
    *_, comparison = self.compared("lower", low=-3, high=-2)
    self.assertEqual(comparison, "same verdict, intervals apart")

  def test_an_interval_without_bounds_is_never_apart(self):
    for old, new in (({"low": None}, {"high": None}), ({}, {"low": None})):
      *_, comparison = self.compared("lower", old, **new)
      self.assertEqual(comparison, "same verdict")

  def test_a_new_claim(self):
    row = results.compared({"findings": []}, RECORD)[0]
    self.assertEqual(row, ["lower", None, row[2], "new"])


if __name__ == "__main__":
  absltest.main()
