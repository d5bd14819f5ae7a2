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

TARGETS = ("normjax_normalize", "normjax_pullback")
"""Names that are registered with XLA for platform "cpu"; see `kernels.cc`."""

_LOG = logging.getLogger("normjax")
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


@functools.cache
def load() -> bool:
  """Registers the kernels with XLA, once, and returns whether there are any.

  Looks beside this file, where the installation puts them, then in the user's
  cache. The environment variable `NORMJAX_NATIVE=0` switches them off. If a
  library cannot be used, this is logged, and no exception is raised.
  """
  if os.environ.get("NORMJAX_NATIVE") == "0":
    _LOG.debug("NORMJAX_NATIVE=0: the native kernels stay off.")
    return False
  try:
    name = file_name()
  except BuildError as error:
    _LOG.info("No native kernels: %s", error)
    return False
  for folder in (_FOLDER, cache_folder()):
    path = folder / name
    if not path.is_file():
      continue
    try:
      _register(path)
    except Exception as error:  # Any error of jaxlib or of the linker.
      _LOG.info("The native kernels in %s cannot be used: %s", path, error)
      continue
    _LOG.debug("Using the native kernels in %s.", path)
    return True
  if any(_FOLDER.glob("kernels-*.so")):
    _LOG.warning(
      "The native kernels in %s were built from other sources, or for another"
      " jaxlib or machine. They are not used, so normjax is slower than it"
      " could be. Build them again with `python -m normjax.native`.",
      _FOLDER,
    )
  else:
    _LOG.debug("No native kernels. Build them with `python -m normjax.native`.")
  return False


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


def _levels() -> dict[str, tuple[str, ...]]:
  return _LEVELS.get(_machine(), {"kLoopsBase": ()})


def _machine() -> str:
  machine = platform.machine().lower()
  return {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)


def _register(path: pathlib.Path) -> None:
  import jax.ffi

  library = ctypes.CDLL(str(path))
  handlers = [jax.ffi.pycapsule(getattr(library, name)) for name in TARGETS]
  for name, handler in zip(TARGETS, handlers, strict=True):
    jax.ffi.register_ffi_target(name, handler, platform="cpu")


def _compiler() -> list[str]:
  if chosen := os.environ.get("CXX"):
    return shlex.split(chosen)
  for name in ("c++", "g++", "clang++"):
    if found := shutil.which(name):
      return [found]
  raise BuildError(
    "there is no C++ compiler. Install g++ or clang++, or set CXX."
  )


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
    raise BuildError(f"{shlex.join(command)} failed:\n{done.stderr.strip()}")
