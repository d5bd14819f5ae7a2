import pathlib
import tempfile

from absl.testing import absltest

from experiments.lab import atomic


class AtomicTest(absltest.TestCase):
  def test_a_failure_leaves_the_old_file(self):
    path = (
      pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
      / "new"
      / "file"
    )
    with atomic.replacing(path) as file:
      file.write(b"old")
    with self.assertRaises(KeyboardInterrupt), atomic.replacing(path) as file:
      file.write(b"new")
      raise KeyboardInterrupt
    self.assertEqual(path.read_bytes(), b"old")
    self.assertEqual([*path.parent.iterdir()], [path])


if __name__ == "__main__":
  absltest.main()
