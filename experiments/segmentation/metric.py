"""The metric: mean intersection over union, from a confusion matrix."""

import numpy as np


def confusion(
  truth: np.ndarray, predicted: np.ndarray, classes: int
) -> np.ndarray:
  """Returns how many pixels of each class (rows) are predicted as which.

  >>> confusion(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 2)
  array([[1, 1],
         [0, 2]])
  """
  pairs = classes * np.ravel(truth).astype(np.int64) + np.ravel(predicted)
  counts = np.bincount(pairs, minlength=classes**2)
  return counts.reshape(classes, classes)


def iou(confusion: np.ndarray) -> np.ndarray:
  """Returns the intersection over union of each class.

  Pixels of the whole test set are counted together, not scene by scene. A class
  that is neither there nor predicted has no number, NaN.

  >>> iou(np.array([[1, 1], [0, 2]])).round(3)
  array([0.5  , 0.667])
  """
  intersection = np.diag(confusion)
  union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
  with np.errstate(invalid="ignore"):
    return intersection / union


def mean_iou(
  truth: np.ndarray, predicted: np.ndarray, classes: int
) -> np.floating:
  """Returns the mean over classes in percent; see `iou`."""
  return 100 * np.nanmean(iou(confusion(truth, predicted, classes)))
