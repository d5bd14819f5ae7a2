"""The models that the studies of transformers train, and their settings.

`claims` has the claims, `judging` their verdicts.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from experiments.lab.errors import RefusedError
from experiments.transformer.options import Config

# Small enough for five seeds of many models, and simple as in the papers.
_COMMON: Mapping[str, Any] = {
  "seeds": 5,
  "layers": 4,
  "width": 48,
  "context": 32,
  "batch_size": 16,
  "steps": 300,
  "eval_every": 100,
  "warmup_steps": 0,
  "schedule": "constant",
  "weight_decay": 0.0,
  "clip_norm": 0.0,
  "kernel_init": "lecun",
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
  "none": {},
  # With the paper's initialization.
  "warmup": {**_COMMON, "layers": 12, "kernel_init": "xavier"},
  "depth": {**_COMMON, "layers": 24},
  "norms": _COMMON,
  "batch_norm": {**_COMMON, "learning_rate": 3e-3, "eval_every": 50},
}
# Settings of --quick for single studies. A line needs two depths.
_QUICK: Mapping[str, Mapping[str, Any]] = {"depth": {"layers": 4}}
# The settings that differ between the models of a study.
_VARIED: Mapping[str, Collection[str]] = {
  "none": (),
  "warmup": ("placement", "learning_rate", "warmup_steps"),
  "depth": ("placement",),
  "norms": ("norm", "learning_rate", "qk_norm"),
  "batch_norm": ("norm",),
}

WARMUP_STEPS = 100
WARMUP_RATES = (1e-3, 3e-3)
NORM_RATES = (1e-3, 3e-3, 1e-2)
HIGH_RATE = 3e-2
DEPTHS = (2, 4, 6, 8, 12, 16, 24)


def with_defaults(config: Config, given: Collection[str]) -> Config:
  """Returns the configuration with the defaults of its study.

  Args:
    config: Configuration from the command line.
    given: Names of the flags on the command line. If `quick` is among them, the
      settings are already small.

  Raises:
    RefusedError: The command line sets a flag that the study varies, or a scale
      for a study.
  """
  varied = sorted({*_VARIED[config.study]} & {*given})
  if varied:
    raise RefusedError(
      f"--study={config.study} compares its own models, which differ in"
      f" {', '.join(_VARIED[config.study])}; leave out --{varied[0]}."
    )
  if config.study != "none" and "scale" in given:
    raise RefusedError(
      f"--study={config.study} has one size, which is not that of --scale;"
      " leave it out, or give the flags that --scale=full stands for."
    )
  defaults = _DEFAULTS[config.study]
  if "quick" in given:
    defaults = _QUICK.get(config.study, {})
  config = dataclasses.replace(
    config,
    **{name: value for name, value in defaults.items() if name not in given},
  )
  if "steps" in given and "eval_every" not in given:
    # At least as many evaluations as by default, so that there is a curve.
    usual = {**dataclasses.asdict(Config()), **_DEFAULTS[config.study]}
    every = -(-config.steps * usual["eval_every"] // usual["steps"])
    config = dataclasses.replace(
      config, eval_every=min(config.eval_every, every)
    )
  return config


def models(config: Config) -> dict[str, Config]:
  """Returns the models to compare, by name; each has one norm and placement.

  Raises:
    RefusedError: There are several norms or placements for a study, or too few
      layers.
  """
  if config.study == "none":
    return {
      _name(config, norm, placement): dataclasses.replace(
        config, norm=(norm,), placement=(placement,)
      )
      for norm in config.norm
      for placement in config.placement
    }
  if len(config.norm) > 1 or len(config.placement) > 1:
    raise RefusedError(
      f"--study={config.study} takes one norm and one placement."
    )

  if config.study == "depth" and config.layers < DEPTHS[1]:
    raise RefusedError(
      f"--study=depth fits a line from {DEPTHS[0]} to --layers blocks, got"
      f" --layers={config.layers}; give {DEPTHS[1]} or more."
    )

  def changed(**changes: Any) -> Config:
    return dataclasses.replace(config, **changes)

  if config.study == "warmup":
    return {
      warmup_model(placement, rate, warmup): changed(
        placement=(placement,), learning_rate=rate, warmup_steps=warmup
      )
      for placement in ("pre", "post")
      for rate in WARMUP_RATES
      for warmup in (0, WARMUP_STEPS)
    }
  if config.study == "norms":
    grid = {
      f"{norm} {rate:g}": changed(norm=(norm,), learning_rate=rate)
      for norm in ("ln", "rms", "none")
      for rate in NORM_RATES
    }
    high = {
      f"ln{' qk' * qk_norm} {HIGH_RATE:g}": changed(
        norm=("ln",), learning_rate=HIGH_RATE, qk_norm=qk_norm
      )
      for qk_norm in (False, True)
    }
    return {**grid, **high}
  if config.study == "batch_norm":
    return {norm: changed(norm=(norm,)) for norm in ("ln", "bn")}
  return {
    placement: changed(placement=(placement,)) for placement in ("pre", "post")
  }


def _name(config: Config, norm: str, placement: str) -> str:
  parts = []
  if len(config.norm) > 1 or len(config.placement) == 1:
    parts.append(norm)
  if len(config.placement) > 1:
    parts.append(placement)
  return " ".join(parts)


def warmup_model(placement: str, rate: float, warmup: int) -> str:
  """Returns the name of a model in the study of warm-up."""
  return f"{placement} {rate:g} warm-up {warmup}"
