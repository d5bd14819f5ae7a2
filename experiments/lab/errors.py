"""The error that ends a run with its message instead of a traceback."""


class RefusedError(ValueError):
  """The run is impossible with these flags; the message says why."""
