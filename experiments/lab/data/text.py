"""Text as arrays of tokens: from TFDS, from Python's own help, or from a file.

`load("auto")` returns tiny_shakespeare (1.1 MB of plays) if it is prepared or
can be downloaded, otherwise half a megabyte of Python's language reference.
"""

import dataclasses
import functools
import os
import pathlib

import numpy as np
from absl import logging

from experiments.lab.data import download, tfds_folder
from experiments.lab.data.images import UnavailableError
from experiments.lab.errors import RefusedError

UNITS = ("characters", "bytes")

# What TFDS downloads for tiny_shakespeare 1.0.0.
_SHAKESPEARE = download.Source(
  url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
  "tinyshakespeare/input.txt",
  size=1_115_394,
  sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Text:
  """A text in three parts, as tokens.

  Attributes:
    name: What was loaded; for "auto" this is "tiny_shakespeare" or "pydoc".
    train, validation, test: Tokens `[n]`, int32.
    vocabulary: Token i stands for the bytes `vocabulary[i]`, which may be part
      of a character.
    characters: Number of characters in each part.
  """

  name: str
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  vocabulary: tuple[bytes, ...]
  characters: tuple[int, ...]

  def decode(self, tokens: np.ndarray) -> str:
    """Returns the text of tokens `[n]`; parts of characters become U+FFFD."""
    text = b"".join(self.vocabulary[token] for token in tokens)
    return text.decode("utf-8", errors="replace")


def load(
  name: str = "auto",
  data_dir: str | os.PathLike[str] | None = None,
  *,
  unit: str = "characters",
) -> Text:
  """Loads a text.

  Args:
    name: "auto" (tiny_shakespeare, or pydoc if that is unavailable),
      "tiny_shakespeare", "pydoc" (the language reference in Python's
      `pydoc_data.topics`), or the path of a file. The file must be UTF-8
      unless the tokens are bytes.
    data_dir: TFDS's folder of data sets; None means `$TFDS_DATA_DIR`, or
      `~/tensorflow_datasets` if that is not set.
    unit: What a token is, "characters" or "bytes".

  Returns:
    The text, in TFDS's own splits; other texts are split into the first 90 %
    for training, 5 % for validation, and the last 5 % for the test.

  Raises:
    RefusedError: The text does not exist, or the file is not UTF-8.
    UnavailableError: tiny_shakespeare is not on disk and could not be
      downloaded.
  """
  if name == "auto":
    try:
      return _text("tiny_shakespeare", _shakespeare(data_dir), unit)
    except UnavailableError as error:
      logging.warning(
        "Using Python's language reference INSTEAD OF tiny_shakespeare: the"
        " numbers of this run say nothing about tiny_shakespeare. %s",
        error,
      )
      name = "pydoc"
  if name == "tiny_shakespeare":
    return _text(name, _shakespeare(data_dir), unit)
  if name == "pydoc":
    return _text(name, _parts(_pydoc()), unit)
  path = pathlib.Path(name).expanduser()
  if not path.is_file():
    raise RefusedError(
      f"There is no text {name!r}: expected auto, tiny_shakespeare, pydoc, or"
      " the path of a file."
    )
  return _text(name, _parts(path.read_bytes()), unit)


def _shakespeare(data_dir: str | os.PathLike[str] | None) -> list[bytes]:
  """Returns TFDS's three splits."""
  root = pathlib.Path(
    data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  ).expanduser()
  folder = tfds_folder.find(tfds_folder.Name.parse("tiny_shakespeare"), root)
  if folder is not None:
    try:
      return tfds_folder.texts(folder, _SPLITS)
    except ImportError as error:
      raise UnavailableError(
        f"Reading {folder} needs a package that is not installed ({error})."
        ' Run `pip install -e ".[experiments]"` in the folder of normjax.'
      ) from error
  try:
    # TFDS itself would need TensorFlow to split it.
    (path,) = download.fetch(
      [_SHAKESPEARE], root / "downloads" / "tiny_shakespeare"
    )
  except (download.DownloadError, OSError) as error:
    raise UnavailableError(
      f"tiny_shakespeare is not prepared in {tfds_folder.described(root)}, and"
      " cannot be downloaded."
      f" {error}\nWhat can help: --dataset=pydoc, or the path of your own text."
    ) from error
  return _parts(path.read_bytes())


def _pydoc() -> bytes:
  from pydoc_data import topics

  # Sorted, because the order depends on the version of Python.
  return "\n".join(
    topics.topics[name] for name in sorted(topics.topics)
  ).encode()


def _parts(text: bytes) -> list[bytes]:
  """Cuts a text as TFDS does: 90 %, half of the rest, and the rest."""
  first = int(len(text) * 0.9)
  second = first + int((len(text) - first) * 0.5)
  cuts = []
  for cut in (first, second):
    # Not inside a UTF-8 character, whose later bytes are 10xxxxxx.
    while cut < len(text) and text[cut] & 0xC0 == 0x80:
      cut += 1
    cuts.append(cut)
  return [text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :]]


def _text(name: str, parts: list[bytes], unit: str) -> Text:
  if unit not in UNITS:
    raise RefusedError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}.")
  try:
    decoded = [part.decode("utf-8") for part in parts]
  except UnicodeDecodeError as error:
    if unit == "characters":
      raise RefusedError(
        f"{name} is not UTF-8 ({error}). With --tokens=bytes it need not be."
      ) from error
    decoded = None
  tokens: list[np.ndarray]
  if unit == "bytes" or decoded is None:
    tokens = [np.frombuffer(part, np.uint8) for part in parts]
    vocabulary = tuple(bytes([value]) for value in range(256))
  else:
    points = [
      np.frombuffer(part.encode("utf-32-le"), np.uint32) for part in decoded
    ]
    # Characters of all parts, so that each has a token.
    known = functools.reduce(np.union1d, points)
    tokens = [np.searchsorted(known, part) for part in points]
    vocabulary = tuple(chr(point).encode() for point in known)
  train, validation, test = (part.astype(np.int32) for part in tokens)
  lengths = tuple(map(len, parts if decoded is None else decoded))
  return Text(name, train, validation, test, vocabulary, lengths)
