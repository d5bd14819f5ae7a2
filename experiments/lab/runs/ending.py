"""How a program ends that cannot finish: the cause, and how to go on.

A run must survive its end at any moment, so Ctrl-C and SIGTERM end it at once,
also in the middle of a long computation.
"""

import contextlib
import errno
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

# Errors of the places where results and output go, not of the program.
_STORAGE = {
  errno.EACCES,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EIO,
  errno.ENOSPC,
  errno.EPERM,
  errno.EPIPE,
  errno.EROFS,
  errno.ESTALE,
}
_CAUSES = {
  signal.SIGINT: "Interrupted.",
  signal.SIGTERM: "Terminated by another program (SIGTERM).",
}

_advice: list[Callable[[], str]] = []
_temporary: list[str] = []


class StoppedError(Exception):
  """The program cannot go on; the message has the cause and the advice."""


@contextlib.contextmanager
def advising(folder: pathlib.Path, advice: Callable[[], str]) -> Iterator[None]:
  """Adds advice to the last message of a program that ends in this block.

  Args:
    folder: Folder of the results.
    advice: Returns what is saved and how to go on; may be called by another
      thread.

  Raises:
    StoppedError: Results or output could not be written.
  """
  _advice.append(advice)
  try:
    yield
  except OSError as error:
    if error.errno not in _STORAGE and folder.exists():
      raise
    output = "output" if error.errno == errno.EPIPE else f"{folder} or output"
    raise StoppedError(
      f"Stopped: {error.strerror} ({error.filename or output}).\n{advice()}"
    ) from error
  finally:
    _advice.pop()


@contextlib.contextmanager
def temporary_folder() -> Iterator[pathlib.Path]:
  """Yields a folder that is removed at the end of the block or program."""
  with tempfile.TemporaryDirectory() as folder:
    _temporary.append(folder)
    try:
      yield pathlib.Path(folder)
    finally:
      _temporary.remove(folder)


def on_signals() -> None:
  """Makes Ctrl-C and SIGTERM end the program at once, with a message."""
  # Python calls signal handlers only between two of its instructions, which a
  # compiled training can delay by minutes. Into this pipe it writes at once.
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer)
  for number in _CAUSES:
    if signal.getsignal(number) is not signal.SIG_IGN:  # As nohup sets it.
      signal.signal(number, _do_nothing)
  threading.Thread(target=_await_signal, args=(reader,), daemon=True).start()


def at_once(status: int, message: str) -> NoReturn:
  """Ends the program without waiting for other threads or processes."""
  with contextlib.suppress(OSError):
    print(message, file=sys.stderr, flush=True)
  for folder in _temporary:
    shutil.rmtree(folder, ignore_errors=True)
  os._exit(status)


def _do_nothing(number: int, frame: Any) -> None:
  """Stands for the handler that would raise KeyboardInterrupt."""


def _await_signal(reader: int) -> None:
  number = 0
  while number not in _CAUSES:
    (number,) = os.read(reader, 1)
  # The training goes on until the end, but prints nothing any more: the advice
  # must hold for what was printed, and stand below it.
  with contextlib.suppress(OSError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  # On a new line, should there be a half one or a progress bar.
  lines = ["", _CAUSES[signal.Signals(number)]]
  for tell in _advice:
    try:
      lines.append(tell())
    except Exception as error:  # Nothing may keep the program from ending.
      lines.append(f"What is saved cannot be told: {error}.")
  at_once(128 + number, "\n".join(lines))
