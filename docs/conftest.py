"""How the examples of the pages are run."""

import jax
import pytest

# Its examples import the file that its reader writes;
# tests/docs/adding_a_norm_test.py writes it and runs them.
collect_ignore = ["adding_a_norm.md"]


@pytest.fixture(autouse=True)
def _promotion_of_optax(request):
  """Optax's Adam, which pages use, mixes integers and floats."""
  usual = jax.config.jax_numpy_dtype_promotion
  if request.node.name in ("applications.md", "batch_norm.md"):
    jax.config.update("jax_numpy_dtype_promotion", "standard")
  yield
  jax.config.update("jax_numpy_dtype_promotion", usual)
