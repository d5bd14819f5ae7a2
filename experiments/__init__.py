"""Studies of normalization, each run with `python -m experiments.NAME`."""

import importlib.util
import signal
import sys

# The packages of the extra "experiments", by a module of each; array_record,
# which TFDS needs, is not for every system.
PACKAGES = {
  "absl": "absl-py",
  "importlib_resources": "importlib_resources",
  "matplotlib": "matplotlib",
  "optax": "optax",
  "PIL": "pillow",
  "requests": "requests",
  "sklearn": "scikit-learn",
  "scipy": "scipy",
  "tabulate": "tabulate",
  "tensorboardX": "tensorboardX",
  "tensorflow_datasets": "tensorflow-datasets",
  "tqdm": "tqdm",
  "urllib3": "urllib3",
}

# `python -m` imports the package of a program before it sets the arguments.
_IS_PROGRAM = sys.argv[:1] == ["-m"]

if _missing := [
  package
  for module, package in PACKAGES.items()
  if importlib.util.find_spec(module) is None
]:
  # The other extra has these packages too.
  _extra = "benchmarks" if "benchmarks" in sys.modules else "experiments"
  _sentence = (
    f"The {_extra} need packages that are not installed"
    f' ({", ".join(_missing)}): run `pip install -e ".[{_extra}]"` in the'
    " clone of the repository."
  )
  if _IS_PROGRAM:
    sys.exit(_sentence)
  raise ImportError(_sentence)

# Imports take seconds. Ctrl-C then ends the program without a traceback, unless
# it was started to ignore that.
if _IS_PROGRAM and (
  signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
  signal.signal(signal.SIGINT, signal.SIG_DFL)
