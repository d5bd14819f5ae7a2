"""Runs the porting recipes of docs/conventions.md beside each library.

Recipes for Flax are doctests. The others run where the library is installed,
`pip install -e ".[benchmarks]"` for most of them.
"""

import pathlib
import re

import jax
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "conventions.md"
LIBRARIES = {
  "Haiku": "haiku",
  "Equinox": "equinox",
  "Keras": "keras",
  "PyTorch": "torch",
  "ONNX": "onnx",
}


def _python_blocks(heading: str) -> list[str]:
  """Returns the code of the section under a heading, up to the next one."""
  _, section = PAGE.read_text().split(f"\n{heading}\n")
  section = re.split(r"^##+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
  return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_every_block_belongs_to_a_library():
  headings = ["## Porting", *(f"### {name}" for name in LIBRARIES)]
  found = [len(_python_blocks(heading)) for heading in headings]
  assert all(found)
  assert sum(found) == PAGE.read_text().count("```python")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.filterwarnings("default")  # Of other libraries.
def test_recipes_agree_with_the_library(library, monkeypatch):
  monkeypatch.setenv("KERAS_BACKEND", "jax")
  pytest.importorskip(LIBRARIES[library])
  heading, namespace = f"### {library}", {}
  # Other libraries rely on the implicit promotion that our tests forbid.
  with (
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
  ):
    for block in (*_python_blocks("## Porting"), *_python_blocks(heading)):
      exec(block, namespace)
