"""The machine that a benchmark runs on."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from typing import NamedTuple

import jax

from experiments.lab.runs import machine

# A machine is not idle if more cores than this are busy before the start.
IDLE_LOAD = 0.3


class Machine(NamedTuple):
  """A device, the machine that it is in, and how busy that was.

  Attributes:
    device: The name of JAX's device; for a CPU, the name of the processor.
    devices: The number of devices that JAX sees. Benchmarks use the first.
    cores: The number of cores that this process may use.
    load: Average number of busy cores over the last minute, None if unknown.
    versions: Versions by package.
  """

  device: str
  devices: int
  cores: int
  load: float | None
  versions: dict[str, str]

  @classmethod
  def here(cls, packages: Iterable[str]) -> "Machine":
    """Returns this machine.

    Args:
      packages: Packages to list the versions of, in addition to Python and JAX.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return cls(
      machine.device(),
      jax.device_count(),
      len(affinity(0)) if affinity else os.cpu_count() or 1,
      os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
      {"python": platform.python_version()}
      | {
        name: importlib.metadata.version(name)
        for name in sorted({"jax", "jaxlib", *packages})
      },
    )

  def __str__(self) -> str:
    load = "unknown" if self.load is None else f"{self.load:.2f}"
    versions = ", ".join(
      f"{name} {number}" for name, number in self.versions.items()
    )
    text = (
      f"{self.devices} x {self.device}, {self.cores} cores, load average"
      f" {load}; {versions}"
    )
    if self.load is not None and self.load > IDLE_LOAD:
      text += (
        f"\nWARNING: the machine is not idle (load average {load}). Other"
        " programs disturb the timings. Wait until they are done."
      )
    return text


def torch_device() -> str:
  """Returns the device that PyTorch should run on, which is JAX's."""
  import torch

  on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
  return "cuda" if on_gpu else "cpu"
