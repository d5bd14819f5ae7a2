"""Tests of progress bars."""

import sys
from unittest import mock

from absl.testing import absltest

from experiments.lab.runs.progress import progress


class ProgressTest(absltest.TestCase):
  def test_is_silent_without_a_terminal(self):
    with mock.patch.object(sys.stderr, "isatty", lambda: False):
      bar = progress(range(3))
    self.assertTrue(bar.disable)
    self.assertEqual(list(bar), [0, 1, 2])

  def test_leaves_nothing_on_a_terminal(self):
    with mock.patch.object(sys, "stderr") as stderr:
      stderr.isatty.return_value = True
      stderr.encoding = "utf-8"
      with progress(total=2, description="ln") as bar:
        bar.update()
    written = "".join(call.args[0] for call in stderr.write.call_args_list)
    self.assertIn("ln", written)
    self.assertEqual(written.rsplit("\r", 1)[-1].strip(), "")


if __name__ == "__main__":
  absltest.main()
