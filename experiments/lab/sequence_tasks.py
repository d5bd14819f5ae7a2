"""What transformers are trained on: text, rows of images, copying, sorting."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import data, text

PyTree = Any
Array = jax.Array | np.ndarray

# Copying and sorting: ten symbols, and one that asks for the answer.
_SYMBOLS = 10
_ANSWER = _SYMBOLS
_EVALUATED = 1000  # Generated examples for validation, and for the test.

# The split is part of the setting, like the data: it does not follow --seed.
_SPLIT_SEED = 0


class Batch(NamedTuple):
  """Sequences with what is to be predicted, in arrays of JAX or NumPy.

  Attributes:
    inputs: Tokens `[n, t]`, or features `[n, t, f]`.
    targets: Integers, `[n, t]` or one for a whole sequence `[n]`.
    counted: Which targets count in the loss, booleans like the targets.
    mask: `[n, t]`, False where a sequence is padded; None without padding.
  """

  inputs: Array
  targets: Array
  counted: Array
  mask: Array | None


@dataclasses.dataclass(frozen=True)
class Task:
  """A task with its data.

  Attributes:
    name: What was loaded.
    causal: Whether every position predicts the next token (else the sequence
      as a whole is classified).
    classes: Number of tokens, or of classes.
    data: What `draw` draws from: arrays, whose first axis counts examples.
    draw: `draw(key, data, size)` returns a batch to train on; is traced.
    validation, test: All examples of these.
    words: The text, where there is one; decodes tokens.
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
    """The longest sequence."""
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
    dataset, data_dir: As `text.load` takes them for "lm", and `data.load` for
      "mnist"; no other task has data.
    context: Positions of a sequence; images have as many as they have rows.
    unit: What a token of text is.

  Raises:
    ValueError: There is no such data set, or it is too short.
    data.UnavailableError: The data are not to be had.
  """
  if name == "lm":
    return _language(text.load(dataset, data_dir, unit=unit), context)
  if name == "mnist":
    return _rows(data.load(dataset, data_dir))
  return _algorithm(name, context)


def _language(words: text.Text, context: int) -> Task:
  shortest = min(map(len, (words.train, words.validation, words.test)))
  if shortest <= context:
    raise ValueError(
      f"{words.name} has a part of {shortest} tokens, too few for"
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
  """Returns windows of a text, to predict each next token in.

  Args:
    key: Decides where they start; every place is equally likely.
    tokens: `[n]`.
    size: How many.
    context: Tokens of a window.
  """
  start = jax.random.randint(key, (size, 1), 0, len(tokens) - context)
  window = tokens[start + jnp.arange(context + 1)[None]]
  inputs, targets = window[:, :-1], window[:, 1:]
  return Batch(inputs, targets, jnp.ones(targets.shape, bool), None)


def _windows(tokens: np.ndarray, context: int) -> Batch:
  """Cuts a text into windows, such that each token but the first counts once.

  What follows the end in the last window is its last token, and not counted.
  """
  last = len(tokens) - 1
  place = np.arange(1, last + -last % context + 1).reshape(-1, context)
  counted = place <= last
  place = np.minimum(place, last)
  return Batch(
    tokens[place - 1],
    tokens[place],
    counted,
    None,
  )


def _rows(dataset: data.Dataset) -> Task:
  def batch(split: data.Split) -> Batch:
    count, rows = split.images.shape[:2]
    inputs = split.images.reshape(count, rows, -1).astype(np.float32)
    return Batch(
      inputs / dataset.max_value,
      split.labels,
      np.ones(count, bool),
      None,
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
    raise ValueError(
      f"A sequence and its answer need two positions at least, got"
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
  padding, which holds some symbols too: only the mask tells it apart.
  """
  length_key, symbol_key = jax.random.split(key)
  length = jax.random.randint(length_key, (size, 1), 1, longest + 1)
  symbols = jax.random.randint(symbol_key, (size, longest), 0, _SYMBOLS)
  # What is beyond the length sorts to the end.
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
