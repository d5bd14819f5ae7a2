"""Judges the committed results again, adds new ones, and writes the pages.

    python -m experiments.results
    python -m experiments.results --compare=runs/batch_size/20261126-101500
    python -m experiments.results --add=runs/batch_size/20261126-101500
    python -m experiments.results --replicate=runs/batch_size/20261127-090000
    python -m experiments.results --rejudge
    python -m experiments.results --write

Without flags, every verdict in results/ is made again from its numbers per
seed, without training, and printed; a difference from the file is an error.
--rejudge writes the differences into the files: after a change of the
statistics or of a sentence, it shows what that changes.
--compare shows a finished run beside the committed results. --add takes a
finished run with --confirm into results/ and its figures into docs/studies/, or
the finished settings of one with --sensitivity into results/STUDY/sensitivity/.
--replicate takes one with --confirm that was made on another kind of device, or
with another jaxlib, into results/STUDY/replications/, beside the committed run.
--write makes docs/studies.md and the table in README.md from results/.
"""

import pathlib
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import app, flags

from experiments import catalog
from experiments.lab import pages, replications, results, sensitivity
from experiments.lab.declaration import Study
from experiments.lab.errors import RefusedError
from experiments.lab.runs import files, workdir
from experiments.lab.tables import table

ROOT = pathlib.Path(__file__).parents[1]


def finished(folder: pathlib.Path) -> tuple[str, dict[str, Any]]:
  """Returns the study's name in the catalog, and the summary of a run.

  Raises:
    RefusedError: The folder holds no finished run of a study.
  """
  summary = workdir.summary(folder)
  if summary is None:
    raise RefusedError(
      f"{folder} holds no finished run. Give the folder that a study printed as"
      " that of its results; continue an interrupted run with --resume."
    )
  module = sensitivity.studied(summary["study"])
  chosen = summary["config"].get("study")
  name = "_".join(filter(None, (module, chosen)))
  if name not in catalog.ENTRIES:
    raise RefusedError(
      f"{folder} is a run of {name}, which has no registered claims; those that"
      f" have are {', '.join(catalog.ENTRIES)}."
    )
  return name, summary


def runs(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of the runs to add: of all finished settings, if any.

  With --sensitivity, each setting is a run of its own in a subfolder.
  """
  settings = [path.parent for path in sorted(folder.glob("*/summary.json"))]
  return settings or [folder]


def add(folder: pathlib.Path, root: pathlib.Path = ROOT) -> pathlib.Path:
  """Takes a finished run into results/, and its figures into docs/studies/.

  Args:
    folder: From `runs`.
    root: Folder with results/ and docs/.

  Raises:
    RefusedError: It is not finished, its seeds or settings are not those that
      are registered, or a figure is not the one that it drew.
  """
  name, summary = finished(folder)
  record = results.of_summary(name, summary, catalog.declared(name))
  if "change" in record:
    return results.write(record, root / "results")
  for figure in record["figures"]:
    path = folder / figure
    checksum = files.sha256(path) if path.exists() else None
    if checksum != summary["checksums"][figure]:
      raise RefusedError(
        f"{path} is not as the run drew it. Run it again in a new folder."
      )
  path = results.write(record, root / "results")
  for figure in record["figures"]:
    target = root / "docs/studies" / path.stem / f"{name}_{figure}"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / figure, target)
  return path


def replicate(folder: pathlib.Path, root: pathlib.Path = ROOT) -> pathlib.Path:
  """Takes a run that repeats a committed one elsewhere into results/.

  Args:
    folder: Of a finished run with `--confirm`.
    root: Folder with results/.

  Raises:
    RefusedError: As for `add`, or it repeats nothing.
  """
  name, summary = finished(folder)
  record = results.of_summary(name, summary, catalog.declared(name))
  committed = results.read([name], root / "results").get(name, {})
  original = committed.get(results.data_of(record))
  repeated = replications.of_record(record, original)
  return results.write(repeated, root / "results")


def write_pages(root: pathlib.Path = ROOT) -> None:
  """Makes docs/studies.md and the table in README.md from results/.

  Raises:
    RefusedError: One of them has no place for the results.
  """
  for page, text in written(root).items():
    files.write_bytes(page, text.encode())


class Committed(NamedTuple):
  """All that is in results/, by study."""

  found: results.Results
  sensitivities: Mapping[str, results.Varied]
  repeated: Mapping[str, replications.Replications]


def read(root: pathlib.Path = ROOT) -> Committed:
  """Reads results/.

  Raises:
    DamagedError: A file was changed by hand.
  """
  found = results.read(catalog.ENTRIES, root / "results")
  varied, repeated = {}, {}
  for name, records in found.items():
    study = catalog.declared(name)
    repeated[name] = replications.read(name, root / "results")
    settings = results.read_varied(name, study, root / "results")
    varied[name] = results.with_default(settings, records, study)
  return Committed(found, varied, repeated)


def written(root: pathlib.Path = ROOT) -> dict[pathlib.Path, str]:
  """Returns the pages as `write_pages` writes them."""
  found, varied, repeated = read(root)
  page = pages.page(
    found, demonstrations(found), varied, repeated, catalog.APPLICATIONS
  )
  blocks = {
    root / "docs/studies.md": page,
    root / "README.md": pages.headlines(found, varied),
  }
  return {page: pages.replaced(page, block) for page, block in blocks.items()}


def demonstrations(names: Iterable[str]) -> dict[str, str]:
  """Returns why the claims of a study do not count, where they do not."""
  return {
    name: reason
    for name in names
    if (reason := catalog.declared(name).demonstration)
  }


def judge_again(root: pathlib.Path = ROOT, write: bool = False) -> list[str]:
  """Prints all verdicts, judged again; returns what differs from the files.

  Args:
    root: Folder with results/.
    write: Whether to write the differences into the files.

  Raises:
    RefusedError: A claim is not declared any more.
    DamagedError: A file was changed by hand.
  """
  changes, changed = [], []

  def judge(record: results.Record, study: Study[Any]) -> results.Record:
    again = results.judged_anew(record, study)
    different = results.differences(record, again)
    changed.extend([again] if different else [])
    changes.extend(different)
    return again

  for name, records in results.read(catalog.ENTRIES, root / "results").items():
    study = catalog.declared(name)
    for data, record in records.items():
      print(f"\n{name}, {data}\n{pages.listed(judge(record, study))}")
    varied = results.read_varied(name, study, root / "results")
    for data, settings in varied.items():
      again = [judge(record, study) for record in settings.values() if record]
      print(f"\n{name} sensitivity, {data}\n{sensitivity.shown(again)}")
    for label, repeated in replications.read(name, root / "results").items():
      for data, record in repeated.items():
        shown = pages.listed(judge(record, study))
        print(f"\n{name}, {data}, {label}\n{shown}")
  if write:
    for record in changed:
      results.write(record, root / "results")
  return changes


def compare(folder: pathlib.Path, root: pathlib.Path = ROOT) -> str:
  """Returns a table of a finished run beside the committed results.

  Raises:
    RefusedError: There are none, or the run is not finished.
  """
  name, summary = finished(folder)
  data = results.data_of(summary)
  old = results.read([name], root / "results").get(name, {}).get(data)
  if old is None:
    raise RefusedError(f"results/ has nothing of {name} on {data} yet.")
  rows = results.compared(old, summary)
  return table(rows, ["claim", "committed", "this run", "comparison"])


def main(argv: Sequence[str]) -> None:
  """Runs the command."""
  if len(argv) > 1:
    sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
  given = flags.FLAGS
  others = (given.compare, given.add, given.replicate, given.write)
  if given.rejudge and any(others):
    sys.exit("--rejudge goes with no other flag; give one after the other.")
  try:
    if given.compare:
      print(compare(pathlib.Path(given.compare)))
    for given_folder in given.add:
      for folder in runs(pathlib.Path(given_folder)):
        print(f"Wrote {add(folder)}")
    for given_folder in given.replicate:
      print(f"Wrote {replicate(pathlib.Path(given_folder))}")
    if given.write:
      write_pages()
      print("Wrote docs/studies.md and README.md")
    if any(others):
      return
    changes = judge_again(write=given.rejudge)
    if changes and not given.rejudge:
      raise RefusedError("\n".join(changes))
    print("\n".join(["", *(changes or ["All verdicts are as in the files."])]))
  except (RefusedError, files.DamagedError) as error:
    sys.exit(str(error))


if __name__ == "__main__":
  flags.DEFINE_string(
    "compare", None, "Folder of a finished run to compare with results/."
  )
  flags.DEFINE_list(
    "add",
    [],
    "Folders of finished runs to add to results/, with their figures.",
  )
  flags.DEFINE_list(
    "replicate",
    [],
    "Folders of finished runs that repeat committed ones on another kind of"
    " device or with another jaxlib, to add beside them.",
  )
  flags.DEFINE_bool(
    "rejudge", False, "Write verdicts that changed into results/."
  )
  flags.DEFINE_bool(
    "write", False, "Write docs/studies.md and the table in README.md."
  )
  app.run(main)
