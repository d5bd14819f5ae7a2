"""Compiled functions, kept for the next process."""

import platform

import jax

from experiments.lab import cache


def keep_compiled() -> None:
  """Lets the next process find what this one compiles."""
  # One folder per machine: code for one processor may not run on another.
  folder = cache.directory() / "xla" / platform.node()
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
