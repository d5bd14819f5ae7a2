"""Trains one arm, and tests its pictures."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from experiments.lab.data.batch import Batch
from experiments.lab.models import nets as lab_nets
from experiments.lab.models.norms import norm_factory
from experiments.lab.study import Parts
from experiments.lab.training import lanes
from experiments.lab.training.engine import Engine
from experiments.lab.training.hyperparams import swept
from experiments.lab.training.step import Update
from experiments.style import losses, tasks
from experiments.style.losses import FAINT
from experiments.style.nets import Stylizer
from experiments.style.tasks import Task

HALF = 0.5  # Another contrast of contents in the tests.
_REESTIMATED = 50  # Batches for re-estimating statistics.
SHOWN = slice(48, 128)  # Rows of the test picture in the figures.

PyTree = Any


class Arm(NamedTuple):
  """What is trained.

  Attributes:
    norm: Short name of the norm.
    styles: Numbers of the styles that it learns.
    told: As in `Stylizer`.
  """

  norm: str
  styles: tuple[int, ...] = (0,)
  told: str = "norms"


class Sizes(NamedTuple):
  """Size of the net and of its training.

  Attributes:
    widths, blocks: As in `Stylizer`.
    steps: Number of steps.
    batch_size: Number of crops in a step.
    content_weight: Weight of the distance to the content in the loss.
    gain: Factor of the initial kernels.
  """

  widths: tuple[int, ...]
  blocks: int
  steps: int
  batch_size: int
  content_weight: float
  gain: float = 1.0


class Trainer:
  """Trains an arm at several rates; to be passed to `tuning.tuned`."""

  def __init__(self, arm: Arm, sizes: Sizes, task: Task):
    self._arm, self._task = arm, task
    self._steps, self._weight = sizes.steps, sizes.content_weight
    self._model = _model(arm, sizes)
    # The engine's functions are compiled once for all rates and seeds.
    self._engine = Engine(
      self._model,
      Update(losses.painting(task, sizes.content_weight), swept(optax.adam)),
      tasks.source(task, arm.styles, sizes.batch_size),
      sample=task.test[None, : task.crop, : task.crop],
      gain=sizes.gain,
      scan=lab_nets.scans_convolutions(),
    )
    self._paint = jax.jit(self._painted)

  def __call__(self, rates: Sequence[float], seeds: Sequence[int]) -> Parts:
    """Returns the results of every seed at every rate.

    One lane after another: on CPUs convolutions are compiled for each lane,
    which takes as long as a training.

    Args:
      rates, seeds: Learning rates, and seeds for each.

    Returns:
      Arrays `[rates, seeds, ...]`, with the styles of the arm where they say
      styles:
      "steps" `[steps]`: the loss of each batch.
      "validation": the loss on validation crops, to choose a rate by.
      "loss", "style", "content" `[styles]`: on test crops.
      "running" `[styles]`: the loss with running statistics; without batch
        norm the same as "loss".
      "faint" `[styles]`: the loss of what is painted from test crops at a
        quarter of their contrast, but with their contents as they are.
      "change": how much the first style changes at half the contrast.
      "apart": how much the last style differs from the first.
      "pictures" `[styles, 2, height, width, 3]`: the test picture, and the
        same at a quarter of the contrast, as bytes.
    """
    return lanes.each(self._lane, rates, seeds)

  def _lane(self, rate: float, seed: int) -> Parts:
    state = self._engine.init([seed], learning_rate=[rate])
    state, records = self._engine.train(state, self._steps)
    again = self._engine.reestimate(
      state.variables, self._engine.source, _REESTIMATED
    )
    test, validation, running = (
      self._tested(variables, picture)
      for variables, picture in (
        (again, self._task.test),
        (again, self._task.validation),
        (state.variables, self._task.test),
      )
    )
    variables = lanes.one(again, 0)
    painted = [
      self._paint(variables, self._crops(self._task.test, style))
      for style in self._arm.styles
    ]
    first, last = painted[0], painted[-1]
    return {
      **test,
      "steps": records.loss[0],
      "validation": validation["loss"].mean(),
      "running": running["loss"],
      "faint": np.stack([one["faint"] for one in painted]),
      "change": change(first["usual"], first["half"]),
      "apart": change(first["usual"], last["usual"]),
      "pictures": np.stack([one["pictures"] for one in painted]),
    }

  def _crops(self, picture: np.ndarray, style: int) -> Batch:
    return tasks.held_out(picture, self._task.crop, style)

  def _tested(self, variables: PyTree, picture: np.ndarray) -> Parts:
    """Returns the metrics `[styles]` on the crops of a picture."""
    found = [
      self._engine.evaluate(variables, self._crops(picture, style))
      for style in self._arm.styles
    ]
    return {
      name: np.concatenate([one[name] for one in found]) for name in found[0]
    }

  def _painted(self, variables: PyTree, batch: Batch) -> dict[str, jax.Array]:
    """Returns crops at two contrasts, the loss at a third, and pictures."""

    def paint(contents: ArrayLike, *contrasts: float) -> jax.Array:
      x = jnp.asarray(contents)
      x = jnp.concatenate([tasks.faded(x, contrast) for contrast in contrasts])
      styles = jnp.full(len(x), batch.targets[0])
      y = jnp.asarray(self._model.apply(variables, x, styles, train=False))
      return y.reshape(len(contrasts), -1, *y.shape[1:])

    usual, half, faint = paint(batch.inputs, 1.0, HALF, FAINT)
    loss = losses.distances(faint, batch, self._task, self._weight)["loss"]
    pictures = paint(self._task.test[None, SHOWN], 1.0, FAINT)[:, 0]
    return {
      "usual": usual,
      "half": half,
      "faint": loss.mean(),
      "pictures": jnp.round(255 * pictures).astype(jnp.uint8),
    }


def _model(arm: Arm, sizes: Sizes) -> Stylizer:
  """Returns the net of an arm."""
  styles = 1 if len(arm.styles) == 1 else len(tasks.STYLES)
  options = {}
  if styles > 1 and arm.told == "norms":  # Gains and biases are of the styles.
    options = {"use_scale": False, "use_bias": False}
  full, half = sizes.widths
  norm = norm_factory(arm.norm, **options)
  return Stylizer(norm, (full, half), sizes.blocks, styles, arm.told)


def change(before: ArrayLike, after: ArrayLike) -> np.ndarray:
  """Returns the root mean square change of pictures over their spread.

  Args:
    before, after: `[n, height, width, 3]`.

  >>> before = np.array([0.0, 1.0]).reshape(1, 1, 2, 1)
  >>> float(change(before, before + 0.25))
  0.5
  """
  old, new = np.asarray(before), np.asarray(after)
  spread = old - old.mean((0, 1, 2))
  with np.errstate(divide="ignore", invalid="ignore"):  # A blank picture.
    return np.sqrt(np.square(new - old).mean() / np.square(spread).mean())
