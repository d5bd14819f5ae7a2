"""Runs the programs of docs/front_ends.md, which print what the page says.

Those in Haiku, Equinox and Keras run where the library is installed.
"""

import importlib.util
import pathlib
import re
import runpy

import jax
import numpy as np
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "front_ends.md"
LIBRARIES = {
  "Flax Linen": "flax",
  "Flax NNX": "flax",
  "Haiku": "haiku",
  "Equinox": "equinox",
  "Keras on JAX": "keras",
  "Plain functions": "jax",
}
OURS = "flax", "jax"
# With 5e-6 each, two programs print the same within 1e-5.
TOLERANCE = 5e-6


def sections():
  """Returns `{heading: text}`, with the start of the page under its title."""
  title, *rest = re.split(r"^##? ", PAGE.read_text(), flags=re.MULTILINE)[1:]
  parts = (part.split("\n", maxsplit=1) for part in (title, *rest))
  return dict(parts)


def program(section):
  (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
  return code


def results(printed):
  """Returns the words and the numbers of what a program prints."""
  words, numbers = zip(*map(str.split, printed.splitlines()), strict=True)
  return words, np.array(numbers, float)


def test_every_section_is_a_front_end():
  _, *headings = sections()
  assert headings == list(LIBRARIES)


def test_the_programs_share_their_data():
  text = PAGE.read_text()
  data = re.findall(r"^random = .*?\n\n", text, re.DOTALL | re.MULTILINE)
  assert len(data) == len(LIBRARIES)
  assert len(set(data)) == 1


@pytest.mark.parametrize(
  "heading",
  [
    pytest.param(
      heading,
      marks=[]
      if library in OURS
      else [
        pytest.mark.skipif(
          importlib.util.find_spec(library) is None,
          reason=f"{library} is not installed.",
        ),
        pytest.mark.filterwarnings("default"),  # Of other libraries.
      ],
    )
    for heading, library in LIBRARIES.items()
  ],
)
def test_the_program_prints_what_the_page_says(
  heading, tmp_path, monkeypatch, capsys
):
  start, *_ = sections().values()
  (shown,) = re.findall(r"^```\n(.*?)```", start, re.DOTALL | re.MULTILINE)
  code = program(sections()[heading])
  # The loaded net gives what the trained one gives.
  assert "\nnp.testing.assert_array_equal(outputs, " in code
  path = tmp_path / "program.py"
  path.write_text(code)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("KERAS_BACKEND", "jax")  # Taken back after the test.
  # Programs are written as users do, with JAX's default of broadcasting.
  with (
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
  ):
    runpy.run_path(str(path))
  words, numbers = results(capsys.readouterr().out)
  expected_words, expected = results(shown)
  assert words == expected_words
  np.testing.assert_allclose(numbers, expected, rtol=0, atol=TOLERANCE)
