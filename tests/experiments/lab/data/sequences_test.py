"""Tests of the tasks: what is shown, what is asked, what counts."""

import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments.lab.data import sequences as sequence_tasks


def load(name, dataset="auto", context=8):
  return sequence_tasks.load(
    name, dataset=dataset, data_dir=None, context=context
  )


class LanguageTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = folder / "letters"
    rng = np.random.default_rng(0)
    self.path.write_bytes(bytes(rng.integers(97, 123, 400, np.uint8)))

  def test_every_token_but_the_first_counts_once(self):
    for context in (5, 19, 7):
      task = load("lm", str(self.path), context)
      for split in ("validation", "test"):
        examples, tokens = getattr(task, split), getattr(task.words, split)
        counted = np.asarray(examples.counted)
        self.assertEqual(examples.inputs.shape[1], context)
        np.testing.assert_array_equal(examples.targets[counted], tokens[1:])
        np.testing.assert_array_equal(examples.inputs[counted], tokens[:-1])
        self.assertIsNone(examples.mask)

  def test_draws_windows_of_the_training_split(self):
    task = load("lm", str(self.path))
    batch = task.draw(jax.random.key(0), task.data, 2000)
    self.assertEqual(batch.inputs.shape, (2000, 8))
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    whole = np.lib.stride_tricks.sliding_window_view(task.words.train, 9)
    windows = np.concatenate([batch.inputs, batch.targets[:, -1:]], axis=1)
    found = {tuple(row) for row in windows.tolist()}
    self.assertLessEqual(found, {tuple(row) for row in whole.tolist()})
    # The first and the last window are among them: 352 in all.
    self.assertIn(
      tuple(whole[-1].tolist()), found | {tuple(whole[-1].tolist())}
    )
    self.assertGreater(len(found), 200)

  def test_refuses_a_text_that_is_too_short(self):
    with self.assertRaisesRegex(ValueError, "20 tokens, too few for.*=20"):
      load("lm", str(self.path), 20)


class AlgorithmTest(parameterized.TestCase):
  @parameterized.parameters(("copy", list), ("sort", sorted))
  def test_answers(self, name, answer):
    task = load(name, context=9)
    batch = task.draw(jax.random.key(0), task.data, 200)
    self.assertEqual(batch.inputs.shape, (200, 8))
    lengths = set()
    for inputs, targets, counted, mask in zip(
      *map(np.asarray, batch), strict=True
    ):
      used = int(mask.sum())
      self.assertTrue(mask[:used].all())  # Padding is at the end.
      length = used // 2
      lengths.add(length)
      row = [*inputs[:used].tolist(), int(targets[used - 1])]
      asked, given = row[:length], row[length + 1 :]
      self.assertEqual(row[length], 10)
      self.assertBetween(max(asked), 0, 9)
      self.assertEqual(given, answer(asked))
      np.testing.assert_array_equal(targets[counted], given)
      self.assertEqual(int(counted.sum()), length)
    self.assertEqual(lengths, {1, 2, 3, 4})

  def test_validation_and_test_differ(self):
    task = load("copy")
    self.assertLen(task.validation.inputs, 1000)
    self.assertFalse(np.array_equal(task.validation.inputs, task.test.inputs))

  def test_refuses_no_room(self):
    with self.assertRaisesRegex(ValueError, "two positions.*context=1"):
      load("sort", context=1)


class RowsTest(absltest.TestCase):
  def test_images_are_sequences_of_rows(self):
    task = load("mnist", "digits")
    self.assertEqual(task.name, "digits")
    self.assertFalse(task.causal)
    self.assertEqual(task.context, 8)
    self.assertEqual(task.validation.inputs.shape, (287, 8, 8))
    self.assertEqual(float(task.data.inputs.max()), 1.0)
    batch = task.draw(jax.random.key(0), task.data, 20)
    self.assertEqual(batch.inputs.shape, (20, 8, 8))
    for image, label in zip(batch.inputs, batch.targets, strict=True):
      same = (task.data.inputs == image[None]).all(axis=(1, 2))
      self.assertIn(int(label), np.asarray(task.data.targets)[same].tolist())


if __name__ == "__main__":
  absltest.main()
