"""Compiles sooner where what is tested does not depend on how it is compiled.

Compiling takes most of the time of most tests.
"""

import contextlib
import functools
from collections.abc import Iterator
from unittest import mock

import jax
from jax._src import compiler


@functools.cache
def options() -> dict[str, bool]:
  """Returns options with which XLA compiles sooner.

  Another generator then makes the code of fusions, and compiling takes two
  thirds of the time. Newer versions of XLA do not have it.
  """
  found = {"xla_cpu_use_fusion_emitters": False}
  try:
    jax.jit(lambda: 0, compiler_options=found)()
  except jax.errors.JaxRuntimeError:  # No such option.
    return {}
  return found


def flags() -> str:
  """Returns them for the environment variable XLA_FLAGS of a program."""
  return " ".join(f"--{name}={value}" for name, value in options().items())


@contextlib.contextmanager
def sooner() -> Iterator[None]:
  """Compiles with few optimizations, in a `with` block of a whole test module.

  JAX has no setting for options of XLA in a part of a process, so one function
  of its own is replaced.
  """
  compile_options, ours = compiler.get_compile_options, options()

  def quick_options(*args, env_options_overrides=None, **kwargs):
    chosen = {**ours, **(env_options_overrides or {})}
    return compile_options(*args, env_options_overrides=chosen, **kwargs)

  with mock.patch.object(compiler, "get_compile_options", quick_options):
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
