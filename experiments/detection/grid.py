"""From boxes to the outputs of a detector, and back."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.detection import scenes
from experiments.detection.average_precision import (
  Detections,
  average_precision,
  kept,
)
from experiments.detection.nets import STRIDE
from experiments.detection.scenes import BOX
from experiments.lab.data.batch import Batch, Members, Prepare
from experiments.lab.training import lanes
from experiments.lab.training.losses import Loss

UNIT = 2.0 * STRIDE  # A box of this size has the logarithm zero.
BOXES = 8.0  # Weight of boxes in the loss.
_LEAST = 0.01  # Detections with a lower score are left out.


def loss(prepare: Prepare) -> Loss:
  """Returns the loss of a detector, a sum of three parts.

  They are the cross-entropy of the score (whether the middle of a digit is in
  the cell) over all cells; for cells with a digit, the cross-entropy of its
  class; and `BOXES` times Huber's loss of its box. All are divided by the
  number of digits.

  Args:
    prepare: Converts the inputs of a batch to the model's inputs. The targets
      are boxes and labels `[n, most, 5]`, see `scenes.scene`.
  """

  def of_batch(
    model: nn.Module,
    variables: Any,
    batch: Batch,
    key: jax.Array,
    train: bool,
  ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
    del key  # Nothing is dropped.
    outputs, updates = model.apply(
      variables, prepare(batch.inputs), train=train, mutable=["batch_stats"]
    )
    there = jnp.asarray(batch.counted)
    objects = jnp.asarray(batch.targets)
    cell, box = encoded(objects[..., :BOX])
    images = jnp.arange(len(objects))[:, None]
    at = (images, cell[..., 0], cell[..., 1])
    occupied = (
      jnp.zeros(outputs.shape[:3]).at[at].max(there.astype(jnp.float32))
    )
    scores = optax.sigmoid_binary_cross_entropy(outputs[..., 0], occupied)
    own = outputs[at]
    classes = optax.softmax_cross_entropy_with_integer_labels(
      own[..., 1 + BOX :], objects[..., BOX].astype(jnp.int32)
    )
    boxes = optax.huber_loss(own[..., 1 : 1 + BOX], box, delta=0.25).sum(-1)
    count = jnp.sum(there, dtype=jnp.float32)
    parts = {
      "score": jnp.sum(scores),
      "class": jnp.sum(classes, where=there),
      "box": BOXES * jnp.sum(boxes, where=there),
    }
    total = parts["score"] + parts["class"] + parts["box"]
    return total / count, updates, {"loss": total, **parts, "count": count}

  return of_batch


def encoded(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the cells of boxes, and what a detector should say of them.

  Args:
    boxes: `[..., 4]` in pixels.

  Returns:
    - Row and column of the cell with the middle, int32 `[..., 2]`.
    - What the detector should say, `[..., 4]`: the distances from the middle of
      the cell to that of the box, in cells, and the logarithms of height and
      width over `UNIT`.

  >>> cell, box = encoded(jnp.array([12.0, 22.0, 16.0, 32.0]))
  >>> print(cell, box.round(2))
  [1 2] [0.   0.25 0.   0.69]
  """
  at = boxes[..., :2] / STRIDE
  cell = jnp.floor(at)
  size = jnp.log(boxes[..., 2:] / UNIT)
  return (
    cell.astype(jnp.int32),
    jnp.concatenate([at - cell - 0.5, size], axis=-1),
  )


def detections(outputs: np.ndarray) -> Detections:
  """Returns what a detector finds: the best class of every cell.

  Args:
    outputs: Of a detector, `[n, rows, columns, 5 + classes]`.

  Returns:
    Detections without those that overlap a better one. A score is the
    probability of a digit times that of its class.
  """
  count, rows, columns, _ = outputs.shape
  outputs = np.asarray(outputs, np.float64)
  logits = outputs[..., 1 + BOX :]
  logits = logits - logits.max(axis=-1, keepdims=True)
  classes = np.exp(logits)
  best = classes.max(axis=-1) / classes.sum(axis=-1)
  with np.errstate(over="ignore"):
    scores = best / (1 + np.exp(-outputs[..., 0]))
  cells = np.moveaxis(np.mgrid[:rows, :columns], 0, -1)
  middle = STRIDE * (cells + 0.5 + outputs[..., 1:3])
  size = UNIT * np.exp(np.clip(outputs[..., 3:5], -4, 4))
  boxes = np.concatenate([middle, size], axis=-1).reshape(count, -1, BOX)
  scores = scores.reshape(count, -1)
  image, cell = np.nonzero(kept(boxes, scores) & (scores > _LEAST))
  return Detections(
    image,
    boxes[image, cell],
    logits.argmax(axis=-1).reshape(count, -1)[image, cell],
    scores[image, cell],
  )


def true(some: Batch) -> Detections:
  """Returns the digits of scenes."""
  image, place = np.nonzero(np.asarray(some.counted))
  objects = np.asarray(some.targets)[image, place]
  return Detections(
    image,
    objects[:, :BOX],
    objects[:, BOX].astype(np.int64),
    np.ones(len(image)),
  )


def tested(model: nn.Module, variables: Any, members: Members) -> np.ndarray:
  """Returns the average precision of every lane on its scenes, `[lanes]`."""
  found = []
  for lane in range(len(members.chosen)):
    own = members.lane(lane)
    outputs = answers(model, lanes.one(variables, lane), own.inputs)
    found.append(average_precision(detections(outputs), true(own)))
  return np.array(found)


def answers(model: nn.Module, variables: Any, inputs: Any) -> np.ndarray:
  """Returns the outputs of a detector for scenes, which are bytes."""
  return np.asarray(_compiled(model)(variables, scenes.prepare(inputs)))


@functools.cache
def _compiled(model: nn.Module) -> Callable[..., jax.Array]:
  return jax.jit(functools.partial(model.apply, train=False))
