"""The figure of training curves: losses of the models over epochs or steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from experiments.lab import figures
from experiments.lab.training import session

if TYPE_CHECKING:
  from experiments.lab.run import Run

_PANELS = {"train_loss": "Training loss", "val_loss": "Validation loss"}


class History(NamedTuple):
  """The losses of a model during its training.

  Attributes:
    at: Epochs or steps of the evaluations, `[n]`.
    losses: `{"train_loss": a, "val_loss": b}`, arrays `[seeds, n]`, NaN after
      a seed has stopped.
    norm: Norm, which sets the colour and the marker.
    color: Colour that replaces the norm's.
    style: Style of the line.
  """

  at: np.ndarray
  losses: Mapping[str, np.ndarray]
  norm: str
  color: str | None = None
  style: Any = "-"

  @classmethod
  def of(
    cls,
    records: Sequence[Mapping[str, Any]],
    unit: str,
    norm: str,
    color: str | None = None,
    style: Any = "-",
  ) -> Self:
    """Returns the history of one model from the records of a session."""
    at = np.array([record[unit] for record in records])
    losses = {metric: session.history(records, metric) for metric in _PANELS}
    return cls(at, losses, norm, color, style)


def draw(
  run: "Run", histories: Mapping[str, History], title: str, unit: str
) -> None:
  """Draws training and validation loss, a line per model, in curves.png.

  A line is the mean over the seeds; its band is their Student t 95% interval.
  Where a seed has stopped early or diverged, it counts with its last loss, and
  the line is dotted. Models of which every seed diverged before the first
  evaluation are left out.

  Args:
    run: Run that gets the figure.
    histories: Histories by the name of the model.
    title: Title of the figure.
    unit: "Epoch" or "Step".
  """
  shown = {
    name: history
    for name, history in histories.items()
    if all(np.isfinite(v).any() for v in history.losses.values())
  }
  if not shown:
    return
  losses = [history.losses["train_loss"] for history in shown.values()]
  caption = figures.seeds_caption(max(map(len, losses)))
  if any(not np.isfinite(values).all() for values in losses):
    caption += "; dotted: seeds that ended count with their last loss"
  with figures.drawing(run, "curves", title=title, caption=caption) as axes:
    for panel, (metric, name) in zip(axes, _PANELS.items(), strict=True):
      means = []
      for model, history in shown.items():
        values = history.losses[metric]
        carried = session.carried(values)
        means.append(carried[:, np.isfinite(carried).any(axis=0)])
        figures.curve(
          panel,
          history.at,
          values,
          history.norm,
          name=model,
          color=history.color,
          style=history.style,
          go_on=carried,
        )
      averages = np.concatenate([np.nanmean(v, axis=0) for v in means])
      wide = 0 < 5 * averages.min() < averages.max()
      figures.label(panel, name, unit, "Cross-entropy (nats)", log_y=wide)
      panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
      if not wide:
        _show_lines(panel, averages)


def _show_lines(panel: Any, averages: np.ndarray) -> None:
  """Limits the axis, because wide bands of few seeds would dwarf the lines."""
  low, high = panel.get_ylim()
  margin = max(np.ptp(averages), 1e-3, 1e-3 * averages.max())
  panel.set_ylim(
    max(low, averages.min() - margin), min(high, averages.max() + margin)
  )
