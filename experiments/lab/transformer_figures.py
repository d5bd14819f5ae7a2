"""Figures of the transformer study."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.lab import panels, plots, reporting
from experiments.lab import transformer_studies as studies
from experiments.lab.study import Run
from experiments.lab.transformer_options import Config

if TYPE_CHECKING:
  from matplotlib.axes import Axes

Results = Mapping[str, Mapping[str, Any]]
Records = Mapping[str, Sequence[Mapping[str, Any]]]

# None that a norm has: hues of Tol's palettes.
# https://personal.sron.nl/~pault/
PLACEMENT_COLORS = {
  "pre": "#332288",
  "post": "#999933",
  "sandwich": "#882255",
  "peri": "#56b4e9",
  "none": plots.norm_color("none"),
}
_PLACEMENT_STYLES = {
  "pre": "-",
  "post": "--",
  "sandwich": "-.",
  "peri": ":",
  "none": (0, (1, 3)),
}

_HIGHEST = 4.0  # Nats; knowing only how frequent characters are, it is 3.3.


def line(
  panel: "Axes",
  x: ArrayLike,
  values: ArrayLike,
  color: str,
  label: str,
  *,
  style: Any = "-",
  marker: str = "o",
) -> None:
  """Draws a mean over seeds with its band.

  Args:
    panel: To draw in.
    x: Positions `[n]`.
    values: `[seeds, n]`; positions where a seed is not finite are left out.
    color, label, style, marker: Of the line.
  """
  positions, seeds = np.asarray(x), np.asarray(values, np.float64)
  known = np.isfinite(seeds).all(axis=0)
  if not known.any():
    return
  positions, seeds = positions[known], seeds[:, known]
  mean, low, high = panels.band(seeds)
  panel.plot(
    positions,
    mean,
    linestyle=style,
    color=color,
    linewidth=2,
    marker=marker,
    markersize=5,
    label=label,
  )
  panel.fill_between(positions, low, high, color=color, alpha=0.18, lw=0)


def series(records: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
  """Returns a metric `[seeds, evaluations]`, NaN where it is not finite."""
  return np.array([record[name] for record in records], np.float64).T


def steps(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """Returns the steps `[evaluations]`."""
  return np.array([record["step"] for record in records])


def curves(run: Run, config: Config, records: Records) -> None:
  """Draws training and validation loss of the models that flags describe."""
  if config.study != "none":
    return
  with panels.drawing(
    run,
    "curves",
    title=f"{config.dataset if config.task == 'lm' else config.task}:"
    f" {config.layers} blocks of width {config.width}",
    caption=panels.seeds_caption(config.seeds),
  ) as axes:
    for panel, metric, title in zip(
      axes,
      ("train_loss", "val_loss"),
      ("Training loss", "Validation loss"),
      strict=True,
    ):
      index = 0
      for norm in config.norm:
        for placement in config.placement:
          name, entries = list(records.items())[index]
          index += 1
          alone = len(config.norm) == 1 and len(config.placement) > 1
          line(
            panel,
            steps(entries),
            series(entries, metric),
            PLACEMENT_COLORS[placement] if alone else plots.norm_color(norm),
            name,
            style="-" if alone else _PLACEMENT_STYLES[placement],
          )
      panels.label(panel, title, "Step", "Cross-entropy (nats)")


def warmup(
  run: Run, config: Config, results: Results, records: Records
) -> None:
  """Draws the losses with and without warm-up."""
  with panels.drawing(
    run,
    "warmup",
    title=f"{config.layers} blocks of width {config.width}, {config.norm[0]}",
    caption=panels.seeds_caption(config.seeds),
  ) as (over_steps, over_rates):
    for placement in ("pre", "post"):
      for warmup, style, marker in (
        (0, "-", "o"),
        (studies.WARMUP_STEPS, "--", "s"),
      ):
        entries = records[
          studies.warmup_model(placement, studies.WARMUP_RATES[-1], warmup)
        ]
        label = (
          f"{placement}, {f'{warmup} steps of' if warmup else 'no'} warm-up"
        )
        options: dict[str, Any] = {"style": style, "marker": marker}
        color = PLACEMENT_COLORS[placement]
        line(
          over_steps,
          steps(entries),
          series(entries, "val_loss"),
          color,
          label,
          **options,
        )
        final = [
          results[studies.warmup_model(placement, rate, warmup)][
            "final_val_loss"
          ]
          for rate in studies.WARMUP_RATES
        ]
        line(
          over_rates,
          studies.WARMUP_RATES,
          np.array(final, np.float64).T,
          color,
          label,
          **options,
        )
    panels.label(
      over_steps,
      f"Learning rate {studies.WARMUP_RATES[-1]:g}",
      "Step",
      "Validation loss (nats)",
    )
    _label_rates(over_rates, config, studies.WARMUP_RATES)


def _label_rates(panel: "Axes", config: Config, rates: Sequence[float]) -> None:
  panels.label(
    panel,
    f"After {config.steps} steps",
    "Learning rate",
    "Validation loss (nats)",
    log_x=True,
  )
  panel.set_xticks(rates, labels=[f"{rate:g}" for rate in rates])
  panel.minorticks_off()


def norms(run: Run, config: Config, results: Results, records: Records) -> None:
  """Draws losses over learning rates, and attention logits over steps."""
  with panels.drawing(
    run,
    "norms",
    title=f"{config.layers} blocks of width {config.width}, pre-LN, no warm-up",
    caption=f"{panels.seeds_caption(config.seeds)}; losses above {_HIGHEST:g}"
    f" nats or not finite at {_HIGHEST:g}",
  ) as (losses, logits):
    for norm, marker in (("ln", "o"), ("rms", "s"), ("none", "D")):
      final = [
        results[f"{norm} {rate:g}"]["final_val_loss"]
        for rate in studies.NORM_RATES
      ]
      line(
        losses,
        studies.NORM_RATES,
        np.fmin(np.array(final, np.float64).T, _HIGHEST),
        plots.norm_color(norm),
        norm,
        marker=marker,
      )
    for qk, style in (("", "-"), (" qk", "--")):
      entries = records[f"ln{qk} {studies.HIGH_RATE:g}"]
      line(
        logits,
        steps(entries),
        series(entries, "largest_logit"),
        plots.norm_color("ln"),
        "ln with QK norm" if qk else "ln",
        style=style,
      )
    _label_rates(losses, config, studies.NORM_RATES)
    panels.label(
      logits,
      f"Learning rate {studies.HIGH_RATE:g}",
      "Step",
      "Largest attention logit",
      log_y=True,
    )


def batch_norm(
  run: Run, config: Config, results: Results, records: Records
) -> None:
  """Draws the loss by the statistics that batch norm uses."""
  with panels.drawing(
    run,
    "batch_norm",
    title=f"{config.layers} blocks of width {config.width}, pre-LN",
    caption=panels.seeds_caption(config.seeds),
  ) as (losses, gaps):
    for norm, marker in (("ln", "o"), ("bn", "s")):
      entries, color = records[norm], plots.norm_color(norm)
      running = series(entries, "val_loss")
      batch = series(entries, "val_loss_batch_statistics")
      options: dict[str, Any] = {"marker": marker}
      name = f"{norm}, running statistics" if norm == "bn" else norm
      line(losses, steps(entries), running, color, name, **options)
      if norm == "bn":
        line(
          losses,
          steps(entries),
          batch,
          color,
          "bn, statistics of each batch",
          style="--",
          **options,
        )
      line(gaps, steps(entries), running - batch, color, name, **options)
    final = results["bn"]["final_val_loss_reestimated"]
    if None not in final:
      interval = reporting.interval(final)
      losses.errorbar(
        config.steps,
        interval.mean,
        np.nan_to_num(interval.half_width),
        color=plots.norm_color("bn"),
        marker="*",
        markersize=12,
        linestyle="none",
        label="bn, re-estimated statistics",
      )
    panels.label(losses, "Validation loss", "Step", "Cross-entropy (nats)")
    panels.label(
      gaps,
      "Running minus batch statistics",
      "Step",
      "Difference (nats)",
    )
