"""The prequential error of parts of the stream."""

import numpy as np

from experiments.lab.study import Parts
from experiments.online import task
from experiments.online.training import AFTER, MANY

_PARTS = AFTER // MANY


def by_segment(arm: Parts) -> np.ndarray:
  """Returns the errors `[seeds, segments, parts]` of an arm, in percent."""
  wrong = arm["wrong"]
  return wrong.reshape(len(wrong), len(task.SEGMENTS), -1)


def whole(arm: Parts) -> np.ndarray:
  """Returns the error over the stream, `[seeds]`."""
  return arm["wrong"].mean(axis=1)


def after(arm: Parts, kind: str) -> np.ndarray:
  """Returns the error of the examples after changes of a kind, `[seeds]`."""
  chosen = by_segment(arm)[:, task.numbers(kind), :_PARTS]
  return chosen.mean(axis=(1, 2))


def before(arm: Parts, kind: str) -> np.ndarray:
  """Returns the error of as many examples before these changes, `[seeds]`."""
  chosen = by_segment(arm)[:, np.array(task.numbers(kind)) - 1, -_PARTS:]
  return chosen.mean(axis=(1, 2))


def cost(arm: Parts, number: int) -> np.ndarray:
  """Returns by how much the error rises with a segment, `[seeds]`.

  Args:
    arm: The results.
    number: Number of the segment, not the first.
  """
  errors = by_segment(arm)
  late = errors[:, number, :_PARTS].mean(axis=1)
  return late - errors[:, number - 1, -_PARTS:].mean(axis=1)
