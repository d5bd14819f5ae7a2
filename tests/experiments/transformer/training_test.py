"""How a task of transformers is loaded."""

import pathlib
import tempfile

import numpy as np
from absl.testing import absltest

from experiments.lab.data import sequences
from experiments.transformer import training
from experiments.transformer.options import Config


class LoadTest(absltest.TestCase):
  def test_windows_are_the_same_in_another_order(self):
    """In order, batches of windows would share a topic."""
    folder = self.enter_context(tempfile.TemporaryDirectory())
    path = pathlib.Path(folder) / "letters"
    path.write_bytes(bytes(range(32, 127)) * 20)
    config = Config(dataset=str(path), context=8)
    found = training.load_task(config, None)
    whole = sequences.load("lm", dataset=str(path), data_dir=None, context=8)

    def rows(batch):
      parts = (batch.inputs, batch.targets, batch.counted)
      return np.concatenate(parts, axis=1).tolist()

    for name in ("validation", "test"):
      expected, shuffled = (
        rows(getattr(task, name)) for task in (whole, found)
      )
      self.assertNotEqual(shuffled, expected)
      self.assertCountEqual(shuffled, expected)


if __name__ == "__main__":
  absltest.main()
