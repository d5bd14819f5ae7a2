"""The five studies of transformers, and how the command line selects one."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from experiments.lab import options
from experiments.lab.study import Study
from experiments.transformer import (
  batch_norm,
  depth,
  norms,
  warmup,
  warmup_tuned,
)
from experiments.transformer.options import Config

STUDIES: Mapping[str, Study[Config]] = {
  "transformer_warmup": warmup.STUDY,
  "transformer_warmup_tuned": warmup_tuned.STUDY,
  "transformer_depth": depth.STUDY,
  "transformer_norms": norms.STUDY,
  "transformer_batch_norm": batch_norm.STUDY,
}


def selected(config: Config) -> Study[Config] | None:
  """Returns the study of a configuration; None for the free comparison."""
  return STUDIES.get(f"transformer_{config.study}")


def varied() -> dict[str, Sequence[Any]]:
  """Returns the settings that `--sensitivity` tries in one study or another."""
  return {
    field: values
    for study in STUDIES.values()
    for field, values in study.sensitivity.items()
  }


def complete(config: Config, given: Collection[str]) -> Config:
  """Returns the configuration with the defaults of its study.

  Args:
    config: Configuration from the command line.
    given: Names of the flags on the command line.
  """
  study = selected(config)
  if study is not None:
    preset = dataclasses.asdict(study.config)
    for flag, changes in (
      ("confirm", study.confirm),
      ("sensitivity", options.with_sensitivity(study.confirm)),
      ("quick", study.quick),
    ):
      if flag in given:
        preset.update(changes)
    return dataclasses.replace(
      config,
      **{name: value for name, value in preset.items() if name not in given},
    )
  if "steps" in given and "eval_every" not in given:
    # At least as many evaluations as by default, so that there is a curve.
    usual = Config()
    every = -(-config.steps * usual.eval_every // usual.steps)
    return dataclasses.replace(config, eval_every=min(config.eval_every, every))
  return config
