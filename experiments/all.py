"""Runs every study and collects its verdicts.

    python -m experiments.all
    python -m experiments.all --dataset=digits --text=pydoc --jobs=2
    python -m experiments.all --confirm
    python -m experiments.all --sensitivity --dataset=digits --text=pydoc
    python -m experiments.all --quick

Each study runs in its own process and in its own folder of the workdir;
--resume runs only the studies that are not finished. At the end all verdicts
are printed, and studies.md is written to the workdir. With --confirm, the seeds
are those of experiments/REGISTERED.md. What was found is then added to
results/, from which docs/studies.md and the table in README.md are made. So it
is with --sensitivity, which measures how much the headline claims depend on the
settings.
"""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent import futures

from absl import app, flags

from experiments import catalog, results
from experiments.lab import pages, sensitivity, study
from experiments.lab import results as recorded
from experiments.lab.errors import RefusedError
from experiments.lab.runs import ending, files, workdir

# Of the page in the folder of the suite.
_LINKS = pages.Links("{study}/summary.json", "{study}/{figure}")
_PATIENCE_SECONDS = 10.0  # For a study that is to end.

_QUICK = flags.DEFINE_bool(
  "quick", False, "Only check that the suite runs; the numbers mean little."
)
_CONFIRM = flags.DEFINE_bool(
  "confirm",
  False,
  "Use the registered seeds, and write results/ and docs/; this takes hours.",
)
_SENSITIVITY = flags.DEFINE_bool(
  "sensitivity",
  False,
  "Run all studies that have this flag with it, and write results/ and docs/;"
  " this takes many hours.",
)
_DATASET = flags.DEFINE_string(
  "dataset",
  "auto",
  "Data of the image studies: auto (MNIST, or digits without it), mnist,"
  " digits, or another data set; see --help of experiments.mnist.",
)
_TEXT = flags.DEFINE_enum(
  "text",
  "auto",
  ["auto", "tiny_shakespeare", "pydoc"],
  "Data of the transformer studies: auto (tiny_shakespeare, or pydoc without"
  " it), or pydoc, which is Python's language reference.",
)
_JOBS = flags.DEFINE_integer(
  "jobs", 1, "Number of studies that run at once.", lower_bound=1
)
_STUDIES = flags.DEFINE_list(
  "studies",
  list(catalog.ENTRIES),
  "The studies to run, separated by commas. There are"
  f" {', '.join(catalog.ENTRIES)}; applications stands for those of what norms"
  " are used for.",
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for the results; by default a new one in runs/."
)
_RESUME = flags.DEFINE_bool(
  "resume", False, "Run only the studies that are not finished in --workdir."
)


class Children:
  """The processes of the studies, which `stop` ends.

  If this process is killed (SIGKILL), they run to their end, and keep the locks
  of their folders until then.
  """

  def __init__(self) -> None:
    self.stopped = False
    self._running: list[subprocess.Popen[bytes]] = []
    self._lock = threading.Lock()

  def run(self, command: Sequence[str], output: pathlib.Path) -> int:
    """Runs a command, with its output in a file; returns its exit status."""
    # Added, because what an earlier process wrote may be needed.
    with output.open("a") as file:
      with self._lock:
        if self.stopped:
          return -signal.SIGTERM
        process = subprocess.Popen(
          command, stdout=file, stderr=subprocess.STDOUT
        )
        self._running.append(process)
      return process.wait()

  def stop(self) -> None:
    """Ends all and starts no more."""
    with self._lock:
      self.stopped = True
    for process in self._running:
      process.terminate()
    for process in self._running:
      try:
        process.wait(_PATIENCE_SECONDS)
      except subprocess.TimeoutExpired:
        process.kill()


def execute(
  name: str, folder: pathlib.Path, flags_: Sequence[str], children: Children
) -> str:
  """Runs a study; returns an error message, or an empty text.

  Args:
    name: Name of the study.
    folder: Folder for its files; the output goes to NAME.txt beside it.
    flags_: Flags of the study.
    children: Runs its process.
  """
  if workdir.summary(folder):
    return ""
  began = time.perf_counter()
  output = folder.parent / f"{name}.txt"
  module = f"experiments.{catalog.ENTRIES[name].module}"
  arguments = *flags_, f"--workdir={folder}", "--resume"
  failed = children.run([sys.executable, "-m", module, *arguments], output)
  if children.stopped:
    return ""
  minutes = (time.perf_counter() - began) / 60
  print(f"{name}: {minutes:.1f} minutes", flush=True)
  if not failed:
    return ""
  *_, last = ["", *output.read_text().splitlines()]
  return f"{name} failed; its output is in {output} and ends with:\n{last}"


@dataclasses.dataclass(frozen=True)
class Config:
  """What the suite runs."""

  dataset: str
  text: str
  quick: bool
  confirm: bool
  sensitivity: bool
  studies: tuple[str, ...]


def run(
  config: Config, root: pathlib.Path, jobs: int = 1, command: str = ""
) -> None:
  """Runs the studies that are not finished, and collects all results.

  Args:
    config: What to run.
    root: Folder for the results.
    jobs: Number of studies that run at once.
    command: Command line of the suite.

  Raises:
    RefusedError: A study failed; the message names its output.
  """
  children = Children()

  def one(name: str) -> str:
    chosen = catalog.arguments(
      name,
      dataset=config.dataset,
      text=config.text,
      quick=config.quick,
      confirm=config.confirm,
      sensitivity=config.sensitivity,
    )
    return execute(name, root / name, chosen, children)

  def advice() -> str:
    children.stop()
    done = sum(
      workdir.summary(root / name) is not None for name in config.studies
    )
    return (
      f"Finished: {done} of {len(config.studies)} studies; what others have"
      f" measured is kept. Continue with:\n{study.to_continue(command, root)}"
    )

  with ending.advising(root, advice):
    with futures.ThreadPoolExecutor(jobs) as pool:
      try:
        failures = list(filter(None, pool.map(one, config.studies)))
      except OSError:
        children.stop()  # The pool would wait until all have run.
        raise
    if children.stopped:
      threading.Event().wait()  # Until the thread that did so ends the program.
    collect(config, root)
  if failures:
    raise RefusedError("\n".join(failures))


def collect(config: Config, root: pathlib.Path) -> None:
  """Prints the verdicts, and writes them to studies.md, results/ and docs/."""
  found = {
    name: {recorded.data_of(summary): summary}
    for name in config.studies
    if (summary := workdir.summary(root / name))
  }
  if not config.sensitivity:
    block = pages.page(
      found,
      results.demonstrations(found),
      applications=catalog.APPLICATIONS,
      links=_LINKS,
    )
    files.write_bytes(root / "studies.md", block.encode())
  first = next((name for name in found if name in catalog.APPLICATIONS), None)
  for name, records in found.items():
    if name == first:
      print("\nApplications; their models are in docs/applications.md")
    print(f"\n{name}")
    for record in records.values():
      varied = record.get("variations")
      print(sensitivity.shown(varied) if varied else pages.listed(record))
  minutes = sum(
    record["minutes"]
    for records in found.values()
    for record in records.values()
  )
  print(
    f"\n{len(found)} of {len(config.studies)} studies finished,"
    f" {minutes:.0f} minutes of training."
  )
  if (config.confirm or config.sensitivity) and not config.quick:
    refused = []
    for name in found:
      for folder in results.runs(root / name):
        try:
          print(f"Wrote {os.path.relpath(results.add(folder))}")
        except RefusedError as error:
          refused.append(str(error))
    results.write_pages()
    print("Wrote docs/studies.md and the table in README.md")
    if refused:
      raise RefusedError("\n".join(refused))


def main(argv: Sequence[str]) -> None:
  """Runs the suite from the command line."""
  names = [
    name
    for given in _STUDIES.value
    for name in (catalog.APPLICATIONS if given == "applications" else (given,))
  ]
  unknown = sorted({*argv[1:], *names} - {*catalog.ENTRIES})
  if not names:
    sys.exit(f"--studies names none; there are {', '.join(catalog.ENTRIES)}.")
  if unknown or len(argv) > 1:
    sys.exit(
      f"Not a study: {', '.join(unknown)}; there are {[*catalog.ENTRIES]}."
    )
  if _SENSITIVITY.value:
    names = [name for name in names if catalog.declared(name).sensitivity]
  config = Config(
    dataset=_DATASET.value,
    text=_TEXT.value,
    quick=_QUICK.value,
    confirm=_CONFIRM.value,
    sensitivity=_SENSITIVITY.value,
    studies=tuple(names),
  )
  where = workdir.Files(_WORKDIR.value or None, _RESUME.value)
  command = study.command_line("all")
  try:
    # Not versions, which would start JAX here; each study records its own.
    with workdir.opened("all", config, where, command, made_with=dict) as root:
      config, _ = workdir.recorded(root, "all", config, command)
      print(f"Results go to {root}")
      ending.on_signals()
      run(config, root, _JOBS.value, command)
  except RefusedError as error:
    sys.exit(str(error))
  except ending.StoppedError as error:
    ending.at_once(1, str(error))


if __name__ == "__main__":
  study.print_lines_at_once()
  app.run(main)
