"""Norms in an LSTM, a GRU and a simple RNN.

    python -m experiments.recurrent
    python -m experiments.recurrent --cell=gru
    python -m experiments.recurrent --study=adding

There are two studies: nets that read images, which is the default, and nets
that add numbers.
"""

from collections.abc import Mapping

from experiments.lab import study
from experiments.lab.study import Run, Study
from experiments.recurrent import adding, rows
from experiments.recurrent.options import CONFIRM, FULL, QUICK, Config

STUDIES: Mapping[str, Study[Config]] = {
  "rows": rows.STUDY,
  "adding": adding.STUDY,
}


def measure(config: Config, run: Run) -> None:
  """Measures the study of the settings."""
  STUDIES[config.study].measure(config, run)


if __name__ == "__main__":
  __doc__ = "\n".join([__doc__, *(one.design for one in STUDIES.values())])
  study.main(
    study.Study(
      "recurrent",
      __doc__,
      measure,
      Config(),
      tuple(claim for one in STUDIES.values() for claim in one.claims),
      tuple(check for one in STUDIES.values() for check in one.checks),
      quick=QUICK,
      full=FULL,
      confirm=CONFIRM,
    )
  )
