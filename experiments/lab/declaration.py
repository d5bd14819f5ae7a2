"""What a study declares: its claims, its settings, and how it is measured."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic

from experiments.lab.claims import Check, Claim
from experiments.lab.options import AnyConfig
from experiments.lab.run import Run

# Measures, prints, draws and judges; may return more entries of the summary.
Measure = Callable[[AnyConfig, Run], Mapping[str, Any] | None]


@dataclasses.dataclass(frozen=True)
class Study(Generic[AnyConfig]):
  """A study: what it claims, and how it is measured.

  Attributes:
    name: Name of the module.
    design: What is trained, on what, and from which sources: the docstring of
      the module. `--help` and experiments/REGISTERED.md show it.
    measure: Function that measures.
    config: The default settings.
    claims: The claims that it judges.
    checks: The identities that it checks.
    quick, full, confirm: Other defaults, by field, for `--quick`,
      `--scale=full` and `--confirm`; see `options.define`.
    demonstration: Why its claims do not count, if they do not.
    sensitivity: Other values of settings, by field, which `--sensitivity` tries
      one at a time.
  """

  name: str
  design: str
  measure: Measure[AnyConfig]
  config: AnyConfig
  claims: Sequence[Claim] = ()
  checks: Sequence[Check] = ()
  quick: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  full: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  confirm: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  demonstration: str = ""
  sensitivity: Mapping[str, Sequence[Any]] = dataclasses.field(
    default_factory=dict
  )
