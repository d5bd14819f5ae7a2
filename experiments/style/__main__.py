"""Painting photographs in a style: instance norm, batch norm, none.

    python -m experiments.style

A net repaints crops of a photograph in a style. The photograph is china of
scikit-learn, at half its size. The styles are a part of scikit-learn's other
photograph, flower, and two textures that are drawn here: blue stripes and pink
dots. The net is that of Johnson et al. at a small size: a 3x3 convolution with
8 channels, one of stride 2 with 16, two residual blocks, upsampling, and two
convolutions. A norm follows each but the last. Borders are mirrored. Training
takes 250 steps of Adam on 4 crops of 32x32 pixels each. About four minutes on
two cores.

The loss of a picture is its distance to the style plus 0.2 times its distance
to the content. Both are measured in 32 random filters of 5x5 pixels with ReLU,
at full, half and quarter resolution. The filters are always the same and are
not trained. Styles are compared by Gram matrices, the mean products of two
features: the squared distance is divided by the squared norm of those of the
style. Contents are compared by the features of the gray pictures at half
resolution, minus their means over the picture: the squared distance is divided
by its mean for blank pictures. The loss is judged, because it is what the nets
of all the sources are trained for, and no other measure is agreed on. It is
taken on 48 crops from columns of the photograph that are not in training. The
rate of each arm is chosen from five or more half decades by the loss on 48
crops from other columns, with other seeds.

For one style, the flower, there are no norm ("none"), batch norm ("bn") and
instance norm ("in"). Batch norm is judged with statistics that are re-estimated
over 50 batches of training; the table has running statistics too. For three
styles there are three nets with instance norm ("separate nets"), and one whose
instance norms have a gain and a bias for each style ("one net"). It takes as
many steps as one of the three, so it sees a third as many crops of each style.
The control ("told at the input") gets the style as a constant channel of its
input instead, which instance norm subtracts.

Nets that have been trained like this also paint crops that are faded towards
middle gray. At half the contrast it is measured by how much a picture changes:
the root mean square of the change over that of the pictures' distance from
their mean. At a quarter of the contrast the loss is taken, with the content as
it was before. Instance norm behind a convolution with mirrored borders removes
a factor of the input. Only its epsilon is left, which matters in a cloudless
sky.

A seed determines the initial weights, the crops and their order. Seeds are
paired: the arms share the crops, and the kernels if they have the same shape.

Sources: Ulyanov et al., 2016, https://arxiv.org/abs/1607.08022, section 2: the
contrast of the content should not matter, and it does not with instance norm.
The paper has better pictures than with batch norm, and no numbers. Huang &
Belongie, 2017, https://arxiv.org/abs/1703.06868, figure 1: the losses fall
faster with instance norm than with batch norm, also if all contents have the
same contrast; section 4: gain and bias can set the style. Dumoulin et al.,
2017, https://arxiv.org/abs/1610.07629: one net for 32 styles, by gains and
biases. These papers compare features of a trained VGG net. Ustyuzhaninov et
al., 2016, https://arxiv.org/abs/1606.00021: for textures, one layer of random
filters of several sizes is often as good. Gram matrices: Gatys et al., 2015,
https://arxiv.org/abs/1508.06576. The net: Johnson et al., 2016,
https://arxiv.org/abs/1603.08155.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from experiments.lab import figures, options, parsers, study, tuning
from experiments.lab.errors import RefusedError
from experiments.lab.options import option
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.style import drawing, losses, tasks
from experiments.style.claims import CHECKS, CLAIMS, judge
from experiments.style.tasks import STYLES, Task
from experiments.style.training import Arm, Sizes, Trainer

RATES = tuning.half_decades(-6, -2)
# What the table shows, and its headers there.
MEASURED = {
  "style": "to style",
  "content": "to content",
  "loss": "loss",
  "running": "running",
  "faint": "pale",
}
ALL = tuple(range(len(STYLES)))
ARMS: Mapping[str, Arm] = {
  "none": Arm("none"),
  "bn": Arm("bn"),
  "in": Arm("in"),
  **{f"in, {STYLES[style]}": Arm("in", (style,)) for style in ALL[1:]},
  "one net": Arm("in", ALL),
  "told at the input": Arm("in", ALL, "input"),
}


@dataclasses.dataclass(frozen=True)
class Config(options.TuningConfig):
  """The net, the crops and the training."""

  widths: tuple[int, ...] = option(
    (8, 16), "Channels at full and at half resolution.", parsers.COUNTS
  )
  blocks: int = option(2, "Number of residual blocks.", parsers.COUNT_OR_ZERO)
  crop: int = option(
    32,
    f"Height and width of a crop: a multiple of 4 from {tasks.NARROWEST} to"
    f" {tasks.WIDEST} pixels.",
    parsers.COUNT,
  )
  batch_size: int = option(4, "Number of crops in a step.", parsers.COUNT)
  steps: int = option(250, "Training steps.", parsers.COUNT)
  content_weight: float = option(
    0.2, "Weight of the distance to the content.", parsers.NOT_NEGATIVE
  )

  def unused(self) -> dict[str, str]:
    found = super().unused()
    found["data_dir"] = "on the photographs, which come with scikit-learn"
    return found


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  _check(config)
  task = tasks.load(config.crop)
  run.use_data("photographs", task[:4])
  run.tell("Two photographs of scikit-learn.")
  sizes = Sizes(
    widths=config.widths,
    blocks=config.blocks,
    steps=config.steps,
    batch_size=config.batch_size,
    content_weight=config.content_weight,
    gain=config.gain,
  )
  found = {}
  for name, arm in ARMS.items():
    part = name.replace(", ", "_").replace(" ", "_")
    train = Trainer(arm, sizes, task)
    found[name] = tuning.tuned(run, part, train, RATES, config)
  found["separate nets"] = together(found)
  _show(found, task, config)
  judge(found, run)
  caption = figures.seeds_caption(config.seeds)
  drawing.draw(found, task, caption, run)


def _check(config: Config) -> None:
  if len(config.widths) != 2:
    raise RefusedError(
      f"--widths={','.join(map(str, config.widths))} must be two numbers: the"
      " channels at full and at half resolution, such as 8,16."
    )
  if config.crop % 4 or not tasks.NARROWEST <= config.crop <= tasks.WIDEST:
    raise RefusedError(
      f"--crop={config.crop} must be a multiple of 4 from {tasks.NARROWEST} to"
      f" {tasks.WIDEST}: the filters need a quarter of it, and the held-out"
      f" columns of the photograph are {tasks.WIDEST} pixels wide."
    )


def together(found: Mapping[str, Parts]) -> Parts:
  """Returns the nets of one style each as if they were one for all styles."""
  nets = [found["in"], *(found[f"in, {STYLES[style]}"] for style in ALL[1:])]
  return {
    name: np.concatenate([net[name] for net in nets], axis=1)
    for name in ("loss", "style", "content", "running", "faint", "pictures")
  }


def _show(found: Mapping[str, Parts], task: Task, config: Config) -> None:
  unchanged = losses.unpainted(task, config.content_weight)
  rows = [
    ["contents as they are", "", *(f"{unchanged[k]:.3f}" for k in MEASURED)]
  ]
  for name, part in found.items():
    rate = f"{part['rate']:.2g}" if "rate" in part else ""
    cells = [shown(part[key].mean(axis=1), ".3f") for key in MEASURED]
    rows.append([name, rate, *cells])
  print(
    "Test crops, means over the styles of a net: distances and loss, with"
    " re-estimated statistics;\nthe loss with running statistics, and painted"
    " from a quarter of the contrast (pale):"
  )
  print(table(rows, ["net", "best rate", *MEASURED.values()]))


STUDY = study.Study(
  "style",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  CHECKS,
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "steps": 3,
    "widths": (2, 4),
    "blocks": 0,
  },
  full={
    "widths": (32, 64),
    "blocks": 5,
    "crop": 64,
    "steps": 40_000,
  },
  confirm={"seed": 120, "seeds": 10},
)

if __name__ == "__main__":
  study.main(STUDY)
