"""What a run was made with: versions, the backend, the kernels."""

import importlib.metadata
from collections.abc import Mapping

import normjax
from normjax import native


def current() -> dict[str, str]:
  """Returns the versions of what the numbers of a run depend on."""
  config = normjax.get_config()
  if config.backend == "cpu":
    native.load()  # Says that there are no kernels before anything else prints.
  return {
    "python": config.python,
    "normjax": config.normjax,
    "jax": config.jax,
    "jaxlib": config.jaxlib,
    "flax": importlib.metadata.version("flax"),
    "optax": importlib.metadata.version("optax"),
    "numpy": config.numpy,
    "backend": config.backend,
    "kernels": config.processor or "off",
  }


def changes(recorded: Mapping[str, str]) -> str:
  """Returns what differs, such as "jax 0.8.3 (now 0.12.0)", or nothing."""
  return ", ".join(
    f"{name} {recorded.get(name)} (now {version})"
    for name, version in current().items()
    if recorded.get(name) != version
  )
