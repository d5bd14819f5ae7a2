"""Tasks for transformers: text, rows of images, copying, sorting."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.data import images as data
from experiments.lab.data import text
from experiments.lab.data.batch import Batch
from experiments.lab.errors import RefusedError

PyTree = Any

# Copying and sorting: ten symbols, and a token that asks for the answer.
_SYMBOLS = 10
_ANSWER = _SYMBOLS
_EVALUATED = 1000  # Generated examples for validation, and for the test.

# The split is part of the setting, like the data: it does not follow --seed.
_SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Task:
  """A task with its data.

  Attributes:
    name: What was loaded.
    causal: Whether every position predicts the next token. If not, the whole
      sequence is classified.
    classes: Number of tokens or classes.
    data: Training data that `draw` takes; the first axis of every array is
      examples.
    draw: `draw(key, data, size)` returns a training batch; it is traced.
    validation, test: All examples of these sets.
    words: The text, which decodes tokens; None for other tasks.
  """

  name: str
  causal: bool
  classes: int
  data: PyTree
  draw: Callable[[jax.Array, PyTree, int], Batch]
  validation: Batch
  test: Batch
  words: text.Text | None = None

  @property
  def context(self) -> int:
    """Length of the longest sequence."""
    return self.validation.inputs.shape[1]


def load(
  name: str,
  *,
  dataset: str,
  data_dir: str | None,
  context: int,
  unit: str = "characters",
) -> Task:
  """Loads a task.

  Args:
    name: One of `TASKS`.
    dataset, data_dir: As in `text.load` for "lm", and in `data.load` for
      "mnist"; the other tasks do not use them.
    context: Length of a sequence; for images it is the number of rows instead.
    unit: What a token of text is.

  Raises:
    RefusedError: The data set does not exist or is too short.
    data.UnavailableError: The data are not on disk and could not be downloaded.
  """
  if name == "lm":
    return _language(text.load(dataset, data_dir, unit=unit), context)
  if name == "mnist":
    return _rows(data.load(dataset, data_dir))
  return _algorithm(name, context)


def _language(words: text.Text, context: int) -> Task:
  shortest = min(map(len, (words.train, words.validation, words.test)))
  if shortest <= context:
    raise RefusedError(
      f"The shortest part of {words.name} has {shortest} tokens, too few for"
      f" --context={context}; use a longer text or a shorter context."
    )
  return Task(
    name=words.name,
    causal=True,
    classes=len(words.vocabulary),
    data=words.train,
    draw=functools.partial(draw_windows, context=context),
    validation=_windows(words.validation, context),
    test=_windows(words.test, context),
    words=words,
  )


def draw_windows(
  key: jax.Array, tokens: jax.Array, size: int, *, context: int
) -> Batch:
  """Draws windows of a text; the targets are the next tokens.

  Args:
    key: Key of the random starts; every place is equally likely.
    tokens: The text `[n]`.
    size: Number of windows.
    context: Tokens in a window.
  """
  start = jax.random.randint(key, (size, 1), 0, len(tokens) - context)
  window = tokens[start + jnp.arange(context + 1)[None]]
  inputs, targets = window[:, :-1], window[:, 1:]
  return Batch(inputs, targets)


def _windows(tokens: np.ndarray, context: int) -> Batch:
  """Cuts a text into windows; each token except the first counts once.

  The last window is filled up with the last token, which is not counted again.
  """
  last = len(tokens) - 1
  place = np.arange(1, last + -last % context + 1).reshape(-1, context)
  counted = place <= last
  place = np.minimum(place, last)
  return Batch(
    tokens[place - 1],
    tokens[place],
    counted,
  )


def _rows(dataset: data.Dataset) -> Task:
  def batch(split: data.Split) -> Batch:
    count, rows = split.images.shape[:2]
    inputs = split.images.reshape(count, rows, -1).astype(np.float32)
    return Batch(
      inputs / dataset.max_value,
      split.labels,
    )

  train, validation = data.train_validation_split(
    dataset.train, train_fraction=0.8, seed=_SPLIT_SEED
  )
  return Task(
    name=dataset.name,
    causal=False,
    classes=dataset.num_classes,
    data=batch(train),
    draw=_draw_examples,
    validation=batch(validation),
    test=batch(dataset.test),
  )


def _draw_examples(key: jax.Array, examples: Batch, size: int) -> Batch:
  chosen = jax.random.randint(key, (size,), 0, len(examples.targets))
  return jax.tree.map(lambda array: array[chosen], examples)


def _copied(symbols: jax.Array) -> jax.Array:
  return symbols


def _sorted(symbols: jax.Array) -> jax.Array:
  return jnp.sort(symbols, axis=-1)


_ALGORITHMS = {"copy": _copied, "sort": _sorted}

TASKS = ("lm", "mnist", *_ALGORITHMS)


def _algorithm(name: str, context: int) -> Task:
  if context < 2:
    raise RefusedError(
      f"A sequence and its answer need at least two positions, got"
      f" --context={context}."
    )
  draw = functools.partial(
    _draw_answers, longest=context // 2, answer=_ALGORITHMS[name]
  )
  keys = jax.random.split(jax.random.key(_SPLIT_SEED))
  some = jax.jit(functools.partial(draw, unused_data=None, size=_EVALUATED))
  validation, test = map(some, keys)
  return Task(
    name=name,
    causal=True,
    classes=_SYMBOLS + 1,
    data=None,
    draw=draw,
    validation=validation,
    test=test,
  )


def _draw_answers(
  key: jax.Array,
  unused_data: PyTree,
  size: int,
  *,
  longest: int,
  answer: Callable[[jax.Array], jax.Array],
) -> Batch:
  """Draws sequences of 1 to `longest` symbols, each followed by its answer.

  A row is the symbols, the token that asks for the answer, the answer, and
  padding. The padding holds symbols too; only the mask marks it.
  """
  length_key, symbol_key = jax.random.split(key)
  length = jax.random.randint(length_key, (size, 1), 1, longest + 1)
  symbols = jax.random.randint(symbol_key, (size, longest), 0, _SYMBOLS)
  # Positions beyond the length sort to the end.
  within = jnp.arange(longest)[None] < length
  answers = answer(jnp.where(within, symbols, _SYMBOLS))
  place = jnp.broadcast_to(jnp.arange(2 * longest + 1), (size, 2 * longest + 1))
  asked, given = (
    jnp.take_along_axis(row, jnp.clip(index, 0, longest - 1), axis=1)
    for row, index in ((symbols, place), (answers, place - length - 1))
  )
  tokens = jnp.where(
    place < length, asked, jnp.where(place == length, _ANSWER, given)
  )
  place = place[:, :-1]
  mask = place < 2 * length
  return Batch(tokens[:, :-1], tokens[:, 1:], mask & (place >= length), mask)
