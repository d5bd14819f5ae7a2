"""Compiles the kernels for CPUs while normjax is built or installed.

Where that is not possible, the package is built without them: it computes the
same in JAX alone. Two environment variables, for those who build wheels for
others, are described in docs/compatibility.md.
"""

import importlib.util
import os
import pathlib
import shutil
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging import tags

KERNELS = "NORMJAX_BUILD_KERNELS"
JAXLIBS = "NORMJAX_BUILD_JAXLIBS"


class NativeBuildHook(BuildHookInterface):
  """Adds the kernels to a wheel, or to the source tree if it is editable."""

  def initialize(self, version: str, build_data: dict[str, Any]) -> None:
    """Called by hatch before it collects files."""
    wanted = os.environ.get(KERNELS, "")
    if wanted not in ("", "0", "1"):
      raise ValueError(
        f"{KERNELS} is {wanted!r}; it can be 0 (without kernels), 1 (not"
        " without them) or unset (where they can be built)."
      )
    self._scratch = tempfile.TemporaryDirectory()
    if wanted == "0":
      return
    folder = pathlib.Path(self.root, "normjax", "native")
    # By its path: the package itself imports JAX.
    spec = importlib.util.spec_from_file_location(
      "library", folder / "library.py"
    )
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)

    # Folders with a jaxlib each; without them, the one that is installed.
    folders = os.environ.get(JAXLIBS)
    jaxlibs = [
      pathlib.Path(parent, "jaxlib")
      for parent in (folders.split(os.pathsep) if folders else ())
    ]
    try:
      paths = {
        library.build(pathlib.Path(self._scratch.name), jaxlib)
        for jaxlib in jaxlibs or [None]
      }
    except (library.BuildError, OSError) as error:
      if wanted == "1":
        self._scratch.cleanup()
        raise
      reason = str(error).splitlines()[0]
      self.app.display_warning(f"normjax without native kernels: {reason}")
      return
    if version == "editable":
      for stale in folder.glob("kernels-*.so"):
        stale.unlink()
      for path in paths:
        shutil.move(path, folder / path.name)
      return
    for path in paths:
      build_data["force_include"][str(path)] = f"normjax/native/{path.name}"
    build_data["pure_python"] = False
    # Nothing in the kernels knows of Python, but all of the system.
    system = next(
      tag.platform
      for tag in tags.sys_tags()
      if not tag.platform.startswith(("manylinux", "musllinux"))
    )
    build_data["tag"] = f"py3-none-{system}"

  def finalize(
    self, version: str, build_data: dict[str, Any], artifact_path: str
  ) -> None:
    """Called by hatch when the wheel is written."""
    self._scratch.cleanup()
