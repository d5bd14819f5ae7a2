"""How the examples of the pages are run."""

import jax
import pytest

# Its examples import the file that its reader writes;
# tests/docs/adding_a_norm_test.py writes it and runs them.
collect_ignore = ["adding_a_norm.md"]

# Optax's Adam mixes integers and floats; models are written as users do, with
# JAX's default of broadcasting.
_RELAXED = {
  "applications.md": ("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion"),
  "batch_norm.md": ("jax_numpy_dtype_promotion",),
}
_DEFAULTS = {
  "jax_numpy_dtype_promotion": "standard",
  "jax_numpy_rank_promotion": "allow",
}


@pytest.fixture(autouse=True)
def _promotion(request):
  options = _RELAXED.get(request.node.name, ())
  usual = {option: getattr(jax.config, option) for option in options}
  for option in options:
    jax.config.update(option, _DEFAULTS[option])
  yield
  for option, value in usual.items():
    jax.config.update(option, value)
