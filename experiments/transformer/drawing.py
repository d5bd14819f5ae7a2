"""Figures of the transformer study."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.lab import curves, figures
from experiments.lab.statistics import interval
from experiments.lab.study import Run
from experiments.lab.training.session import history
from experiments.transformer import arms
from experiments.transformer.options import Config

if TYPE_CHECKING:
  from matplotlib.axes import Axes

Results = Mapping[str, Mapping[str, Any]]
Records = Mapping[str, Sequence[Mapping[str, Any]]]

# Colours of Tol's palettes that no norm of `NORM_COLORS` has:
# https://personal.sron.nl/~pault/
PLACEMENT_COLORS = {
  "pre": "#332288",
  "post": "#999933",
  "sandwich": "#882255",
  "peri": "#56b4e9",
  "none": figures.norm_color("none"),
}
_PLACEMENT_STYLES = {
  "pre": "-",
  "post": "--",
  "sandwich": "-.",
  "peri": ":",
  "none": (0, (1, 3)),
}

_HIGHEST = 4.0  # Nats; a unigram model of characters has 3.3.


def steps(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """Returns the steps `[evaluations]`."""
  return np.array([record["step"] for record in records])


def losses(run: Run, config: Config, data: str, records: Records) -> None:
  """Draws training and validation loss of the models, without a study."""
  places = [(n, p) for n in config.norm for p in config.placement]
  alone = len(config.norm) == 1 and len(config.placement) > 1
  histories = {
    name: curves.History.of(
      entries,
      "step",
      norm,
      PLACEMENT_COLORS[placement] if alone else None,
      _PLACEMENT_STYLES[placement],
    )
    for (norm, placement), (name, entries) in zip(
      places, records.items(), strict=True
    )
  }
  curves.draw(run, histories, title=f"{data}: {_size(config)}", unit="Step")


def warmup(
  run: Run, config: Config, results: Results, records: Records
) -> None:
  """Draws the losses with and without warm-up."""
  with figures.drawing(
    run,
    "warmup",
    title=f"{_size(config)}, {config.norm[0]}",
    caption=figures.seeds_caption(config.seeds),
  ) as (over_steps, over_rates):
    for placement in ("pre", "post"):
      for warmup, style, marker in (
        (0, "-", "o"),
        (arms.WARMUP_STEPS, "--", "s"),
      ):
        entries = records[
          arms.warmup_model(placement, arms.WARMUP_RATES[-1], warmup)
        ]
        label = (
          f"{placement}, {f'{warmup} steps of' if warmup else 'no'} warm-up"
        )
        options: dict[str, Any] = {"style": style, "marker": marker}
        options["color"] = PLACEMENT_COLORS[placement]
        figures.curve(
          over_steps,
          steps(entries),
          history(entries, "val_loss"),
          "none",
          name=label,
          **options,
        )
        final = [
          results[arms.warmup_model(placement, rate, warmup)]["final_val_loss"]
          for rate in arms.WARMUP_RATES
        ]
        figures.curve(
          over_rates,
          arms.WARMUP_RATES,
          np.array(final, np.float64).T,
          "none",
          name=label,
          **options,
        )
    figures.label(
      over_steps,
      f"Learning rate {arms.WARMUP_RATES[-1]:g}",
      "Step",
      "Validation loss (nats)",
    )
    _label_rates(over_rates, config, arms.WARMUP_RATES)


def _size(config: Config) -> str:
  blocks = "1 block" if config.layers == 1 else f"{config.layers} blocks"
  return f"{blocks} of width {config.width}"


def _title(config: Config) -> str:
  (placement,), warmup = config.placement, config.warmup_steps
  return (
    f"{_size(config)}, {placement}-LN,"
    f" {f'{warmup} steps of' if warmup else 'no'} warm-up"
  )


def _label_rates(panel: "Axes", config: Config, rates: Sequence[float]) -> None:
  figures.label(
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
  with figures.drawing(
    run,
    "norms",
    title=_title(config),
    caption=f"{figures.seeds_caption(config.seeds)}; losses above {_HIGHEST:g}"
    f" nats or not finite at {_HIGHEST:g}",
  ) as (panel, logits):
    for norm, marker in (("ln", "o"), ("rms", "s"), ("none", "D")):
      final = [
        results[f"{norm} {rate:g}"]["final_val_loss"]
        for rate in arms.NORM_RATES
      ]
      figures.curve(
        panel,
        arms.NORM_RATES,
        np.fmin(np.array(final, np.float64).T, _HIGHEST),
        norm,
        marker=marker,
      )
    for qk, style in (("", "-"), (" qk", "--")):
      entries = records[f"ln{qk} {arms.HIGH_RATE:g}"]
      figures.curve(
        logits,
        steps(entries),
        history(entries, "largest_logit"),
        "ln",
        name="ln with QK norm" if qk else "ln",
        style=style,
      )
    _label_rates(panel, config, arms.NORM_RATES)
    figures.label(
      logits,
      f"Learning rate {arms.HIGH_RATE:g}",
      "Step",
      "Largest attention logit",
      log_y=True,
    )


def batch_norm(
  run: Run, config: Config, results: Results, records: Records
) -> None:
  """Draws the losses of batch norm with running and with batch statistics."""
  with figures.drawing(
    run,
    "batch_norm",
    title=_title(config),
    caption=figures.seeds_caption(config.seeds),
  ) as (panel, gaps):
    for norm, marker in (("ln", "o"), ("bn", "s")):
      entries = records[norm]
      running = history(entries, "val_loss")
      batch = history(entries, "val_loss_batch_statistics")
      name = f"{norm}, running statistics" if norm == "bn" else norm
      at = steps(entries)
      figures.curve(panel, at, running, norm, name=name, marker=marker)
      if norm == "bn":
        figures.curve(
          panel,
          at,
          batch,
          norm,
          name="bn, statistics of each batch",
          style="--",
          marker=marker,
        )
      figures.curve(gaps, at, running - batch, norm, name=name, marker=marker)
    final = results["bn"]["final_val_loss_reestimated"]
    if None not in final:
      found = interval(final)
      panel.errorbar(
        config.steps,
        found.mean,
        np.nan_to_num(found.half_width),
        color=figures.norm_color("bn"),
        marker="*",
        markersize=12,
        linestyle="none",
        label="bn, re-estimated statistics",
      )
    figures.label(panel, "Validation loss", "Step", "Cross-entropy (nats)")
    figures.label(
      gaps,
      "Running minus batch statistics",
      "Step",
      "Difference (nats)",
    )
