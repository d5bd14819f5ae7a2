"""Average precision of detections, in NumPy.

Boxes are `(y, x, height, width)`; y and x are those of their middle.
"""

from typing import NamedTuple

import numpy as np


class Detections(NamedTuple):
  """Detected or true objects of many images.

  Attributes:
    image: Number of the image of each, `[n]`.
    boxes: `[n, 4]`.
    labels: `[n]`.
    scores: `[n]`; of no use for true objects.
  """

  image: np.ndarray
  boxes: np.ndarray
  labels: np.ndarray
  scores: np.ndarray

  def some(self, chosen: np.ndarray) -> "Detections":
    """Returns the objects at indices or where a mask is true."""
    return Detections(*(array[chosen] for array in self))


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Returns the intersection over the union of boxes, which are broadcast.

  >>> float(iou(np.array([1, 1, 2, 2]), np.array([1, 2, 2, 2])).round(3))
  0.333
  """
  low = np.maximum(_low(first), _low(second))
  high = np.minimum(_high(first), _high(second))
  common = np.prod(np.maximum(high - low, 0), axis=-1)
  area = np.prod(first[..., 2:], axis=-1) + np.prod(second[..., 2:], axis=-1)
  return common / np.maximum(area - common, 1e-12)


def kept(
  boxes: np.ndarray, scores: np.ndarray, threshold: float = 0.5
) -> np.ndarray:
  """Returns which boxes stay when those that overlap a better one are removed.

  This is non-maximum suppression, whatever the classes. A box that was removed
  removes no other.

  Args:
    boxes: `[images, n, 4]`.
    scores: `[images, n]`.
    threshold: The intersection over the union from which on boxes overlap.

  Returns:
    Booleans `[images, n]`.
  """
  order = np.argsort(-scores, axis=1, kind="stable")
  ordered = np.take_along_axis(boxes, order[..., None], axis=1)
  overlap = iou(ordered[:, :, None], ordered[:, None]) >= threshold
  removed = np.zeros(scores.shape, bool)
  for rank in range(scores.shape[1]):
    better = ~removed[:, rank, None]
    removed[:, rank + 1 :] |= better & overlap[:, rank, rank + 1 :]
  stays = np.empty_like(removed)
  np.put_along_axis(stays, order, ~removed, axis=1)
  return stays


def hits(
  found: Detections, truth: Detections, threshold: float = 0.5
) -> np.ndarray:
  """Matches detections of one class with true objects, the best score first.

  Args:
    found: Detections, by falling score.
    truth: True objects.
    threshold: The least intersection over the union.

  Returns:
    Booleans: whether a detection has a true object that no better one had. If
    there are several, it takes the one with the largest overlap.
  """
  overlap = iou(found.boxes[:, None], truth.boxes)
  overlap[found.image[:, None] != truth.image] = 0
  right = np.zeros(len(found.image), bool)
  for number in np.flatnonzero((overlap >= threshold).any(axis=1)):
    best = overlap[number].argmax()
    if overlap[number, best] >= threshold:
      right[number] = True
      overlap[:, best] = 0  # It is taken.
  return right


def area(right: np.ndarray, total: int) -> float:
  """Returns the area below the curve of precision over recall.

  The precision at a recall is the highest at this recall or a higher one
  ("all-point interpolation").

  Args:
    right: Whether each detection is right, by falling score.
    total: Number of true objects.

  >>> round(area(np.array([True, False, True, False]), total=4), 4)
  0.4167
  """
  precision = np.cumsum(right) / np.arange(1, len(right) + 1)
  highest = np.maximum.accumulate(precision[::-1])[::-1]
  return float(highest[right].sum() / total)


def average_precision(
  found: Detections, truth: Detections, threshold: float = 0.5
) -> float:
  """Returns the average precision, mean over the classes of true objects."""
  found = found.some(np.argsort(-found.scores, kind="stable"))
  areas = []
  for label in np.unique(truth.labels):
    true = truth.some(truth.labels == label)
    own = found.some(found.labels == label)
    areas.append(area(hits(own, true, threshold), len(true.labels)))
  return float(np.mean(areas))


def _low(boxes: np.ndarray) -> np.ndarray:
  return boxes[..., :2] - boxes[..., 2:] / 2


def _high(boxes: np.ndarray) -> np.ndarray:
  return boxes[..., :2] + boxes[..., 2:] / 2
