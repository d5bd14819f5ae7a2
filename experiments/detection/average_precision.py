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


def suppressed(found: Detections, threshold: float = 0.5) -> Detections:
  """Removes boxes that overlap a better one of the same image.

  Args:
    found: Detections.
    threshold: The intersection over the union from which on they overlap.

  Returns:
    The others, by falling score.
  """
  found = found.some(np.argsort(-found.scores, kind="stable"))
  kept = np.zeros(len(found.scores), bool)
  for image in np.unique(found.image):
    rest = np.flatnonzero(found.image == image)
    while len(rest):
      best, rest = rest[0], rest[1:]
      kept[best] = True
      overlap = iou(found.boxes[best], found.boxes[rest])
      rest = rest[overlap < threshold]
  return found.some(kept)


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
  free = np.ones(len(truth.image), bool)
  right = np.zeros(len(found.image), bool)
  for number, (image, box) in enumerate(
    zip(found.image, found.boxes, strict=True)
  ):
    candidates = np.flatnonzero(free & (truth.image == image))
    if len(candidates):
      overlap = iou(box, truth.boxes[candidates])
      best = overlap.argmax()
      if overlap[best] >= threshold:
        right[number] = True
        free[candidates[best]] = False
  return right


def area(right: np.ndarray, total: int) -> float:
  """Returns the area below the curve of precision over recall.

  The precision at a recall is the highest at this recall or a higher one
  ("all-point interpolation").

  Args:
    right: Whether each detection is right, by falling score.
    total: Number of true objects.

  >>> area(np.array([True, False, True, False]), total=4)
  0.4166666666666667
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
