"""How the kernels are found, built anew and missed."""

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

import normjax
from normjax.native import library

ROOT = pathlib.Path(__file__).parents[2]
OFF = "normjax runs without its CPU kernels, which is slower"
ANEW = "normjax builds its CPU kernels anew"


class LibraryTest(parameterized.TestCase):
  """With a folder for the sources, a cache and a compiler of their own."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )
    self.native = self.folder / "native"
    self.native.mkdir()
    for source in (ROOT / "normjax/native").iterdir():
      if source.suffix in (".cc", ".h"):
        shutil.copy(source, self.native)
    self.cache = self.folder / "cache" / "native"
    self.enter_context(mock.patch.object(library, "_FOLDER", self.native))
    # What it "compiles" is a text, so registering it is replaced as well.
    self.compiler = self.folder / "compiler"
    self.compile_with(
      'while [ "$1" != -o ]; do shift; done; echo "$2" >"$2"; echo >>"$0.log"'
    )
    self.register = self.enter_context(
      mock.patch.object(library, "_register", return_value="a level")
    )
    self.enter_context(
      mock.patch.dict(
        os.environ,
        CXX=str(self.compiler),
        NORMJAX_CACHE_DIR=str(self.cache.parent),
      )
    )
    os.environ.pop("NORMJAX_NATIVE", None)
    self.forget()
    self.addCleanup(self.forget)

  def forget(self):
    for cached in (library.find, library._provide, library._warn_once):
      cached.cache_clear()

  def compile_with(self, script):
    self.compiler.write_text(f"#!/bin/sh\n{script}\n")
    self.compiler.chmod(0o755)

  def compilations(self):
    log = pathlib.Path(f"{self.compiler}.log")
    return len(log.read_text()) if log.exists() else 0

  def outdated(self, folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "kernels-0123456789abcdef.so"
    path.write_text("Not to be loaded.")
    return path

  @contextlib.contextmanager
  def messages(self, *expected):
    """Checks how the warnings in a block begin, and yields them."""
    found = []
    with mock.patch.object(
      library._LOG, "warning", lambda form, *given: found.append(form % given)
    ):
      yield found
    self.assertLen(found, len(expected), found)
    for text, start in zip(found, expected, strict=True):
      self.assertStartsWith(text, start)

  @parameterized.parameters("native", "cache")
  def test_kernels_that_fit_are_used(self, where):
    built = library.build({"native": self.native, "cache": self.cache}[where])
    with self.messages():
      self.assertEqual(library.find(), library.Kernels(built, "a level"))
      self.assertTrue(library.load())
      self.assertTrue(library.load())
    self.register.assert_called_once_with(built)

  def test_none_built(self):
    with self.messages(OFF) as found:
      self.assertFalse(library.load())
      self.assertFalse(library.load())
    self.assertEndsWith(
      found[0], "they have not been built. Run `python -m normjax.native`."
    )
    self.assertEqual(self.compilations(), 0)

  @parameterized.parameters(None, "/nonexistent")
  def test_no_compiler(self, compiler):
    self.outdated(self.native)
    os.environ["PATH"] = str(self.folder)
    if compiler is None:
      del os.environ["CXX"]
    else:
      os.environ["CXX"] = compiler
    with self.messages(OFF) as found:
      self.assertFalse(library.load())
    self.assertEndsWith(
      found[0],
      f": those in {self.native} were built for another jaxlib or machine, or"
      " from other sources. Install a C++ compiler (g++ or clang++), then run"
      " `python -m normjax.native`.",
    )

  @parameterized.parameters("native", "cache")
  def test_others_are_built_in_the_place_of_those_that_do_not_fit(self, where):
    other = self.outdated({"native": self.native, "cache": self.cache}[where])
    with self.messages():
      self.assertTrue(library.find().outdated)  # This is what an import does.
    self.assertEqual(self.compilations(), 0)
    with self.messages(ANEW):
      self.assertTrue(library.load())
    built = self.cache / library.file_name()
    self.assertEqual(library.find().path, built)
    self.assertTrue(other.exists())  # Another environment may use it.

    self.forget()  # In the next process.
    with self.messages():
      self.assertTrue(library.load())

  def test_one_build_for_all_threads(self):
    self.outdated(self.native)
    with (
      self.messages(ANEW),
      concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
      self.assertTrue(all(pool.map(lambda _: library.load(), range(8))))
    units = len(library._levels()) + 1
    self.assertEqual(self.compilations(), units + 1)  # And one to link them.

  def test_a_build_that_fails(self):
    self.outdated(self.native)
    self.compile_with("echo No header. >&2; exit 1")
    with self.messages(ANEW, OFF) as found:
      self.assertFalse(library.load())
      self.assertFalse(library.load())
    self.assertIn(f": building them failed ({self.compiler} failed).", found[1])
    self.assertIn("`python -m normjax.native`", found[1])
    self.assertEmpty(list(self.cache.iterdir()))

  @parameterized.parameters("a file", "a folder")
  def test_a_cache_that_cannot_be_written(self, what):
    self.outdated(self.native)
    self.cache.parent.mkdir()
    if what == "a file":  # Nobody can write into it, root neither.
      self.cache.touch()
    else:
      self.cache.mkdir(0o555)
      error = PermissionError(13, "Permission denied", str(self.cache))
      self.enter_context(
        mock.patch.object(tempfile, "TemporaryDirectory", side_effect=error)
      )
    with self.messages(ANEW, OFF) as found:
      self.assertFalse(library.load())
    self.assertIn(str(self.cache), found[1])
    self.assertEndsWith(found[1], "Set NORMJAX_CACHE_DIR to one that can.")

  def test_a_library_that_cannot_be_loaded(self):
    built = library.build(self.native)
    self.outdated(self.native)
    self.register.side_effect = OSError("GLIBC_9.9 not found")
    with self.messages(OFF) as found:
      self.assertFalse(library.load())
    self.assertIn(f"{built} cannot be used: GLIBC_9.9 not found.", found[0])

  def test_switched_off(self):
    self.outdated(self.native)
    os.environ["NORMJAX_NATIVE"] = "0"
    with self.messages():
      self.assertFalse(library.load())
    self.assertEqual(library.find().problem, "NORMJAX_NATIVE=0 is set.")
    self.assertEqual(self.compilations(), 0)
    self.register.assert_not_called()

  def test_only_programs_that_could_call_kernels_ask_for_them(self):
    x = jnp.ones((2, 8))
    jitted = lambda: jax.jit(lambda x: normjax.layer_norm(x))
    with self.messages():
      jax.eval_shape(normjax.layer_norm, x)
      for platform in ("cuda", "tpu"):
        jitted().trace(x).lower(lowering_platforms=(platform,))
      normjax.layer_norm(x, mask=x > 0)
      jax.export.export(jitted())(x)
    with self.messages(OFF):
      jitted().lower(x)
      jitted().lower(x)


class ProcessTest(absltest.TestCase):
  """What programs print, in new processes, with a copy of the package."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )
    shutil.copytree(
      ROOT / "normjax",
      self.folder / "normjax",
      ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )

  def start(self, **environment):
    code = (
      "import jax, jax.numpy as jnp, normjax\n"
      "for n in (4, 5): print(normjax.layer_norm(jnp.arange(n) / n).mean())\n"
      "print(normjax.get_config().processor)\n"
    )
    base = {**os.environ, "CXX": "/nonexistent"}
    base.pop("NORMJAX_NATIVE", None)
    return subprocess.Popen(
      [sys.executable, "-c", code],
      cwd=self.folder,
      env={
        **base,
        "PYTHONPATH": str(self.folder),
        "NORMJAX_CACHE_DIR": str(self.folder / "cache"),
        **environment,
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def check(self, process, processor, *warnings):
    output, errors = process.communicate(timeout=120)
    self.assertEqual(process.returncode, 0, errors)
    self.assertEqual(output.split()[-1], str(processor))
    lines = errors.splitlines()
    self.assertLen(lines, len(warnings), errors)
    for line, start in zip(lines, warnings, strict=True):
      self.assertStartsWith(line, start)

  def test_without_kernels(self):
    missed, switched_off = self.start(), self.start(NORMJAX_NATIVE="0")
    self.check(missed, None, OFF)
    self.check(switched_off, None)

  def test_two_processes_that_build_at_once(self):
    if not library.load():
      self.skipTest("there are no kernels to copy")
    kernels = library.find()
    (self.folder / "normjax/native/kernels-0123456789abcdef.so").touch()
    compiler = self.folder / "compiler"
    # Both have begun before one is done.
    compiler.write_text(
      f"#!/bin/sh\ncd {self.folder}; touch began.$PPID\n"
      "while [ $(ls began.* | wc -l) -lt 2 ]; do sleep 0.1; done\n"
      'while [ "$1" != -o ]; do shift; done\n'
      f'cp "{kernels.path}" "$2"\n'
    )
    compiler.chmod(0o755)
    for process in [self.start(CXX=str(compiler)) for _ in range(2)]:
      self.check(process, kernels.level, ANEW)
    self.check(self.start(), kernels.level)


if __name__ == "__main__":
  absltest.main()
