"""What a run was made with: versions, backend, device, kernels, XLA's flags."""

import importlib.metadata
import os
from collections.abc import Mapping

import normjax
from experiments.lab.runs import machine
from normjax import native

_UNSET = "unset"


def current() -> dict[str, str]:
  """Returns the versions of what the numbers of a run depend on."""
  config = normjax.get_config()
  if config.backend == "cpu":
    native.load()  # Says that there are no kernels before anything else prints.
  found = {
    "python": config.python,
    "normjax": config.normjax,
    "jax": config.jax,
    "jaxlib": config.jaxlib,
    "flax": importlib.metadata.version("flax"),
    "optax": importlib.metadata.version("optax"),
    "numpy": config.numpy,
    "backend": config.backend,
    "kernels": config.processor or "off",
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
  }
  if config.backend != "cpu":
    found["device"] = machine.device()
  return found


def changes(recorded: Mapping[str, str]) -> str:
  """Returns what differs, such as "jax 0.8.3 (now 0.12.0)", or nothing."""
  now = current()
  return ", ".join(
    f"{shown(name, recorded[name])} (now {now[name] or _UNSET})"
    for name in differing(recorded, now)
  )


def differing(*made_with: Mapping[str, str]) -> list[str]:
  """Returns the names of what differs between runs.

  Where a run did not record something, as older ones did not record XLA_FLAGS,
  nothing is known of it, and only the others are compared.
  """
  known: dict[str, set[str]] = {}
  for recorded in made_with:
    for name, version in recorded.items():
      known.setdefault(name, set()).add(version)
  return [name for name, found in known.items() if len(found) > 1]


def shown(name: str, version: str) -> str:
  """Returns an entry as text, such as "jax 0.8.3"."""
  return f"{name} {version or _UNSET}"
