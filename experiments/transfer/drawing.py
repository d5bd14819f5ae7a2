"""The figures of the transfer between two sites."""

from collections.abc import Mapping

import numpy as np

from experiments.lab import figures
from experiments.lab.study import Parts, Run
from experiments.transfer.training import MODES, SIZES, Arm, Config, Pools


def errors(
  first: Parts,
  arms: Mapping[Arm, Parts],
  config: Config,
  data: str,
  run: Run,
) -> None:
  colors = dict(zip(MODES, ("C0", "C2", "C1"), strict=True))
  with figures.drawing(
    run,
    "transfer",
    columns=1,
    size=(11.2, 5.4),
    title=f"Another scanner, {data}",
    caption=f"{figures.seeds_caption(config.seeds)}; each point at its best"
    " learning rate",
  ) as (panel,):
    for name, label, style in (
      ("second", "as trained", ":"),
      ("second again", "re-estimated, without labels", "--"),
    ):
      values = np.repeat(first[name][:, None], len(SIZES), axis=1)
      figures.curve(
        panel,
        SIZES,
        values,
        "bn",
        name=label,
        color="0.4",
        style=style,
        marker="",
        geometric=True,
      )
    for mode in MODES:
      values = np.transpose([arms[mode, size]["error"] for size in SIZES])
      figures.curve(
        panel,
        SIZES,
        values,
        "bn",
        name=f"fine-tuned, {mode}",
        color=colors[mode],
        geometric=True,
      )
    panel.set_xscale("log", base=2)
    panel.set_xticks(SIZES, map(str, SIZES))
    figures.label(
      panel,
      "Test error at the second site",
      "Batch size of fine-tuning",
      "Error (%)",
      log_y=True,
    )


def scanners(pools: Pools, run: Run) -> None:
  """Draws images as both scanners record them."""
  count = 6
  with figures.drawing(
    run,
    "scanners",
    rows=2,
    columns=count,
    size=(10.0, 4.2),
    title="The same images from two scanners",
    legend=False,
    caption="Above: first site, below: second site",
  ) as axes:
    shown_ = np.concatenate([pool.prepared(count).inputs for pool in pools])
    for panel, image in zip(axes, shown_, strict=True):
      panel.imshow(image, cmap="gray", vmin=0, vmax=1)
      panel.set_axis_off()
