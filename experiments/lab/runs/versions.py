"""The versions that a run was made with."""

import platform
from collections.abc import Mapping
from importlib import metadata

import normjax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def current() -> dict[str, str]:
  """Returns the versions of Python, normjax and what they compute with."""
  packages = {name: metadata.version(name) for name in _PACKAGES}
  return {
    "python": platform.python_version(),
    "normjax": normjax.__version__,
    **packages,
  }


def changes(recorded: Mapping[str, str]) -> str:
  """Returns what differs, such as "jax 0.8.3 (now 0.12.0)", or nothing."""
  return ", ".join(
    f"{name} {recorded.get(name)} (now {version})"
    for name, version in current().items()
    if recorded.get(name) != version
  )
