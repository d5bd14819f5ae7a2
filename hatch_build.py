"""Compiles the kernels for CPUs while normjax is built or installed.

Where that is not possible, the package is built without them: it computes the
same in JAX alone.
"""

import importlib.util
import pathlib
import shutil
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging import tags


class NativeBuildHook(BuildHookInterface):
  """Adds the kernels to a wheel, or to the source tree if it is editable."""

  def initialize(self, version: str, build_data: dict[str, Any]) -> None:
    """Called by hatch before it collects files."""
    folder = pathlib.Path(self.root, "normjax", "native")
    # By its path: the package itself imports JAX.
    spec = importlib.util.spec_from_file_location(
      "library", folder / "library.py"
    )
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)

    self._scratch = tempfile.mkdtemp()
    try:
      path = library.build(pathlib.Path(self._scratch))
    except (library.BuildError, OSError) as error:
      reason = str(error).splitlines()[0]
      self.app.display_warning(f"normjax without native kernels: {reason}")
      return
    if version == "editable":
      for stale in folder.glob("kernels-*.so"):
        stale.unlink()
      shutil.move(path, folder / path.name)
      return
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
    shutil.rmtree(self._scratch, ignore_errors=True)
