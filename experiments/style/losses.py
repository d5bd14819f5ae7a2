"""The loss of a painted picture: its distances to a style and to a content."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.lab.data.batch import Batch
from experiments.lab.training.losses import Loss
from experiments.style import tasks, texture
from experiments.style.tasks import Task

FAINT = 0.25  # The lowest contrast of contents in the tests.

PyTree = Any


def distances(
  painted: jax.Array, batch: Batch, task: Task, content_weight: float
) -> dict[str, jax.Array]:
  """Returns how good pictures are, `[n]` each.

  Args:
    painted: Pictures.
    batch: The contents as inputs, the numbers of the styles as targets.
    task: Has the styles.
    content_weight: Weight of the distance to the content in the loss.

  Returns:
    The distances to the "style" and the "content", and the "loss", their
    weighted sum.
  """
  wanted = [target[batch.targets] for target in task.targets]
  contents = jnp.asarray(batch.inputs)
  style = texture.style_distance(painted, wanted)
  content = texture.content_distance(painted, contents, task.variance)
  total = style + content_weight * content
  return {"loss": total, "style": style, "content": content}


def unpainted(task: Task, content_weight: float) -> dict[str, float]:
  """Returns what test crops are worth as they are, mean over all styles."""
  measured = jax.jit(lambda x, batch: distances(x, batch, task, content_weight))
  means = []
  for style in range(len(tasks.STYLES)):
    batch = tasks.held_out(task.test, task.crop, style)
    contents = jnp.asarray(batch.inputs)
    found = measured(contents, batch)
    found["running"] = found["loss"]
    found["faint"] = measured(tasks.faded(contents, FAINT), batch)["loss"]
    means.append({name: values.mean() for name, values in found.items()})
  return {n: float(np.mean([one[n] for one in means])) for n in means[0]}


def painting(task: Task, content_weight: float) -> Loss:
  """Returns the loss of a net that paints; see `distances`."""

  def loss(
    model: nn.Module, variables: PyTree, batch: Batch, key: Any, train: bool
  ) -> tuple[jax.Array, PyTree, dict[str, jax.Array]]:
    del key  # Nothing is random.
    painted, updates = model.apply(
      variables,
      batch.inputs,
      batch.targets,
      train=train,
      mutable=["batch_stats"],
    )
    found = distances(jnp.asarray(painted), batch, task, content_weight)
    sums = {name: values.sum() for name, values in found.items()}
    count = jnp.asarray(batch.num_examples, jnp.float32)
    return found["loss"].mean(), updates, {**sums, "count": count}

  return loss
