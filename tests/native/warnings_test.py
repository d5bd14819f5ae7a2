"""The C++ sources compile without warnings."""

import subprocess

from absl.testing import parameterized

from normjax.native import library


class WarningsTest(parameterized.TestCase):
  @parameterized.parameters("kernels.cc", "loops.cc")
  def test_no_warnings(self, source):
    try:
      compiler, headers = library._compiler(), library._headers(None)
    except library.BuildError as error:
      self.skipTest(str(error))
    command = (
      *compiler, *library._FLAGS, "-Wall", "-Wextra", "-fsyntax-only",
      "-DNORMJAX_LEVEL=kLoopsBase", "-isystem", str(headers),
      str(library._FOLDER / source),
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    self.assertEqual((done.returncode, done.stderr), (0, ""))
