"""The installed libraries that `benchmarks.norms` compares."""

from collections.abc import Callable, Sequence

from benchmarks import (
  norm_layer,
  norm_libraries,
  norm_memory,
  norm_programs,
  norm_report,
  norm_torch,
)
from benchmarks.norm_cases import Case
from experiments.lab import timing

# The package's name on PyPI, by the library's name.
PACKAGES: dict[str, str] = {
  **{name: package for name, (package, _) in norm_libraries.LIBRARIES.items()},
  **dict.fromkeys(norm_report.TORCH, "torch"),
}

# Makes a program to time; returns None if the library does not offer it.
Maker = Callable[[str, str, Case], timing.Run | None]


def _jax_maker(layers: norm_layer.Layers) -> Maker:
  def make(mode: str, timed: str, case: Case) -> timing.Run | None:
    layer = layers[case.norm](case) if case.norm in layers else None
    if layer is None:
      return None
    return norm_programs.make_run(mode, timed, case, layer)

  return make


def _torch_maker(*, compiled: bool) -> Maker:
  import torch  # noqa: F401  Raises ImportError here, once.

  def make(mode: str, timed: str, case: Case) -> timing.Run | None:
    return norm_torch.make_run(mode, timed, case, compiled=compiled)

  return make


class Peers:
  """The libraries that are installed, and what went wrong with them.

  Attributes:
    names: Names of the installed libraries, ours first.
    failures: The cases of each error, by library, norm, mode and message.
  """

  def __init__(self, names: Sequence[str]):
    """Imports libraries. If one is left out, prints why.

    Args:
      names: Keys of `PACKAGES`. normjax is always included.
    """
    self.failures: dict[str, list[str]] = {}
    self._layers: dict[str, norm_layer.Layers] = {}
    self._makers: dict[str, Maker] = {}
    for name, package in PACKAGES.items():
      if name not in (norm_report.OURS, *names):
        continue
      try:
        if name in norm_report.TORCH:
          self._makers[name] = _torch_maker(compiled=name == "torch.compile")
        else:
          self._layers[name] = norm_libraries.LIBRARIES[name][1]()
          self._makers[name] = _jax_maker(self._layers[name])
      except ImportError as missing:
        print(f"{name} is left out: {missing}. Try `pip install {package}`.")

  @property
  def names(self) -> list[str]:
    return list(self._makers)

  def runs(self, mode: str, timed: str, case: Case) -> dict[str, timing.Run]:
    """Returns compiled programs of the libraries that can run the case.

    Args:
      mode: One of `norm_programs.MODES`.
      timed: One of `norm_programs.TIMINGS`.
      case: The case to run.

    Returns:
      Programs by library.
    """
    result = {}
    for name, make in self._makers.items():
      # A library may lack a compiler, a kernel or memory. Others still run.
      try:
        run = make(mode, timed, case)
        if run is not None:
          run(1)
          result[name] = run
      except Exception as error:
        if name == norm_report.OURS:
          raise
        first = str(error).strip().partition("\n")[0][:200]
        key = f"{name}, {case.norm}, {mode}: {type(error).__name__}: {first}"
        self.failures.setdefault(key, []).append(f"{case.size}, {timed}")
    return result

  def memory(self, case: Case) -> dict[str, norm_memory.Memory]:
    """Returns the memory of a chain, by JAX library that offers the case."""
    result = {}
    for name, layers in self._layers.items():
      layer = layers[case.norm](case) if case.norm in layers else None
      needed = layer and norm_memory.measure(case, layer)
      if needed is not None:
        result[name] = needed
    return result
