"""Compiles, finds and registers the kernels.

This file must not import JAX or the rest of the package, because the build of a
wheel uses it.
"""

import concurrent.futures
import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from typing import NamedTuple

TARGETS = ("normjax_normalize", "normjax_pullback")
"""Names that are registered with XLA for platform "cpu"; see `kernels.cc`."""

_LOG = logging.getLogger("normjax")
_LOCK = threading.RLock()
_FOLDER = pathlib.Path(__file__).parent
_FLAGS = (
  "-std=c++17",
  "-O3",
  "-fPIC",
  "-fvisibility=hidden",
  "-fopenmp-simd",  # Loops marked as vectorizable, no OpenMP library.
  "-ffp-contract=fast",  # Fused multiply-add. Other fast math stays off.
  "-fno-math-errno",
  "-fno-trapping-math",
)
# The loops are compiled for each of these levels, and chosen at run time. So
# one library is fast on new processors and works on old ones.
_LEVELS = {
  "x86_64": {
    "kLoopsV4": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "kLoopsV3": ("-march=x86-64-v3",),
    "kLoopsBase": (),
  }
}


class BuildError(RuntimeError):
  """The kernels cannot be built here; the message says why."""


def build(
  into: pathlib.Path, jaxlib: pathlib.Path | None = None
) -> pathlib.Path:
  """Compiles the kernels.

  Needs a C++17 compiler (`$CXX`, else the first of c++, g++ and clang++) and
  the headers that come with jaxlib. Takes about ten seconds.

  Args:
    into: Folder for the library, created if necessary. The file appears there
      only when it is complete.
    jaxlib: Package folder of the jaxlib to build for; None means the installed
      one. Only its headers are needed.

  Returns:
    The library's path; see `file_name`.

  Raises:
    BuildError: there is no compiler or no jaxlib, or compiling failed.
    OSError: `into` cannot be written.
  """
  compiler = _compiler()
  headers = _headers(jaxlib)
  into.mkdir(parents=True, exist_ok=True)
  path = into / file_name(jaxlib)
  with tempfile.TemporaryDirectory(dir=into) as name:
    folder = pathlib.Path(name)
    units: list[tuple[str, ...]] = [("kernels.cc", "-isystem", str(headers))]
    for level, flags in _levels().items():
      units.append(("loops.cc", f"-DNORMJAX_LEVEL={level}", *flags))
    objects = [str(folder / f"{i}.o") for i in range(len(units))]
    commands = [
      (*compiler, *_FLAGS, *flags, "-c", str(_FOLDER / source), "-o", target)
      for (source, *flags), target in zip(units, objects, strict=True)
    ]
    with concurrent.futures.ThreadPoolExecutor(len(commands)) as pool:
      list(pool.map(_run, commands))
    linked = folder / path.name
    _run((*compiler, "-shared", *objects, "-o", str(linked), "-pthread"))
    os.replace(linked, path)
  return path


class Kernels(NamedTuple):
  """Which kernels this process has.

  Attributes:
    path: The library; None if there is none.
    level: The processor level that it chooses on this machine, such as
      "x86-64-v4"; None without a library.
    problem: Why there is no library, and what to do; None with one.
    outdated: Whether there are libraries, but none for this environment.
  """

  path: pathlib.Path | None = None
  level: str | None = None
  problem: str | None = None
  outdated: bool = False


def load() -> bool:
  """Returns whether programs for this machine's CPU can call kernels.

  Called whenever such a program is compiled. If there are no kernels, a warning
  says so once, unless `NORMJAX_NATIVE=0` switches them off.
  """
  with _LOCK:
    kernels = provide()
    if kernels.problem and not _switched_off():
      _warn_once(
        "normjax runs without its CPU kernels, which is slower: %s",
        kernels.problem,
      )
  return kernels.path is not None


def provide() -> Kernels:
  """Returns the kernels, and builds them if those that are there do not fit.

  They do not after an update of jaxlib, or if `pip install -e .` has built them
  for a newer jaxlib than the installed one. Building takes about ten seconds.
  So it is left to the first program for a CPU that can call them: imports stay
  fast, and programs for GPUs never wait. Processes that build at the same time
  do not disturb one another.
  """
  with _LOCK:
    return _provide()


@functools.cache
def find() -> Kernels:
  """Returns the kernels if they have been built, and registers them with XLA.

  Looks beside this file, where the installation puts them, then in the user's
  cache. Builds nothing, and raises nothing if a library cannot be used.
  """
  if _switched_off():
    return Kernels(problem="NORMJAX_NATIVE=0 is set.")
  try:
    name = file_name()
  except BuildError as error:
    return Kernels(problem=str(error))
  found = [
    path
    for folder in (_FOLDER, cache_folder())
    for path in sorted(folder.glob("kernels-*.so"))
  ]
  fitting = [path for path in found if path.name == name]
  problem = "they have not been built."
  for path in fitting:
    try:
      level = _register(path)
    except Exception as error:  # Any error of jaxlib or of the linker.
      problem = f"{path} cannot be used: {error}."
      continue
    _LOG.debug("Using the native kernels in %s.", path)
    return Kernels(path, level)
  outdated = bool(found) and not fitting
  if outdated:
    problem = (
      f"those in {found[0].parent} were built for another jaxlib or machine, or"
      " from other sources."
    )
  advice = "Run `python -m normjax.native`."
  if not _has_compiler():
    advice = (
      "Install a C++ compiler (g++ or clang++), then run"
      " `python -m normjax.native`."
    )
  return Kernels(problem=f"{problem} {advice}", outdated=outdated)


def file_name(jaxlib: pathlib.Path | None = None) -> str:
  """Returns the library's name, with a fingerprint of all that it depends on.

  So a library that does not fit is never loaded. This matters for the version
  of XLA's foreign function interface: with a handler of another version, the
  CPU backend would not start.

  Args:
    jaxlib: As for `build`.

  Raises:
    BuildError: jaxlib is not there.
  """
  api = (_headers(jaxlib) / "xla/ffi/api/c_api.h").read_text()
  version = re.findall(r"#define XLA_FFI_API_M(?:AJ|IN)OR (\d+)", api)
  parts = (_FLAGS, _levels(), platform.system(), _machine(), version)
  digest = hashlib.sha256(repr(parts).encode())
  for source in sorted(_FOLDER.iterdir()):
    if source.suffix in (".cc", ".h"):
      digest.update(source.read_bytes())
  return f"kernels-{digest.hexdigest()[:16]}.so"


def cache_folder() -> pathlib.Path:
  """Returns the folder for kernels that were built after the installation.

  It is `native` in `$NORMJAX_CACHE_DIR`, else in `$XDG_CACHE_HOME/normjax`,
  else in `~/.cache/normjax`.
  """
  if chosen := os.environ.get("NORMJAX_CACHE_DIR"):
    base = pathlib.Path(chosen)
  else:
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    base /= "normjax"
  return base.expanduser() / "native"


@functools.cache
def _provide() -> Kernels:
  kernels = find()
  if not kernels.outdated or not _has_compiler():
    return kernels
  _LOG.warning(
    "normjax builds its CPU kernels anew, because those that are there are for"
    " another jaxlib, machine or version. This takes about ten seconds, once."
  )
  try:
    build(cache_folder())
  except BuildError as error:
    reason = str(error).splitlines()[0].rstrip(".:")
    return kernels._replace(
      problem=f"building them failed ({reason}). `python -m normjax.native`"
      " shows the whole error, and builds them once that is solved."
    )
  except OSError as error:
    return kernels._replace(
      problem=f"their folder cannot be written ({error}). Set NORMJAX_CACHE_DIR"
      " to one that can."
    )
  find.cache_clear()
  return find()


@functools.cache
def _warn_once(message: str, problem: str) -> None:
  _LOG.warning(message, problem)


def _switched_off() -> bool:
  return os.environ.get("NORMJAX_NATIVE") == "0"


def _levels() -> dict[str, tuple[str, ...]]:
  return _LEVELS.get(_machine(), {"kLoopsBase": ()})


def _machine() -> str:
  machine = platform.machine().lower()
  return {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)


def _register(path: pathlib.Path) -> str:
  """Registers a library's kernels, and returns the level that it chooses."""
  import jax.ffi

  library = ctypes.CDLL(str(path))
  handlers = [jax.ffi.pycapsule(getattr(library, name)) for name in TARGETS]
  library.normjax_level.restype = ctypes.c_char_p
  level = library.normjax_level().decode()
  for name, handler in zip(TARGETS, handlers, strict=True):
    jax.ffi.register_ffi_target(name, handler, platform="cpu")
  return level


def _compiler() -> list[str]:
  if chosen := os.environ.get("CXX"):
    return shlex.split(chosen)
  for name in ("c++", "g++", "clang++"):
    if found := shutil.which(name):
      return [found]
  raise BuildError(
    "there is no C++ compiler. Install g++ or clang++, or set CXX."
  )


def _has_compiler() -> bool:
  try:
    return shutil.which(_compiler()[0]) is not None
  except BuildError:
    return False


def _headers(jaxlib: pathlib.Path | None) -> pathlib.Path:
  spec = None if jaxlib else importlib.util.find_spec("jaxlib")
  installed = (spec and spec.submodule_search_locations) or ()
  for folder in [jaxlib] if jaxlib else installed:
    headers = pathlib.Path(folder, "include")
    if (headers / "xla/ffi/api/ffi.h").is_file():
      return headers
  raise BuildError(
    f"the headers of jaxlib are needed, but they are not in {jaxlib}."
    if jaxlib
    else "jaxlib is not installed, and its headers are needed."
  )


def _run(command: tuple[str, ...]) -> None:
  try:
    done = subprocess.run(command, capture_output=True, text=True)
  except OSError as error:
    raise BuildError(f"{command[0]} cannot be started: {error}") from error
  if done.returncode:
    raise BuildError(
      f"{command[0]} failed:\n{done.stderr.strip()}\n"
      f"The command was: {shlex.join(command)}"
    )
