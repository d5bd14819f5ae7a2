"""The frame of every study: from the command line to summary.json.

A study is a module with a frozen `Config` (see `options`), a function that
measures, and a `Study`, which `main` runs. CONTRIBUTING.md has a small complete
example.

The folder of a run holds config.json, the measurements so far (parts/,
checkpoints/), which `--resume` reuses, the figures, and at the end
summary.json:

    {"study": ..., "command": ..., "versions": {...}, "config": {...},
     "minutes": ..., "data": ..., "machine": {...}, "rates": {...},
     "findings": [...], "checks": [...], "figures": ["curves.png", ...]}

A finding is a `claims.Finding`, a check a `claims.Outcome`; "rates" has a
`tuning.RateChoice` for each arm whose learning rate was chosen.
"""

import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging
from jax.sharding import Mesh

from experiments.lab import claims as claiming
from experiments.lab import options, resolution, sensitivity
from experiments.lab.claims import Finding, Outcome, Verdict
from experiments.lab.declaration import Measure
from experiments.lab.declaration import Study as Study
from experiments.lab.errors import RefusedError
from experiments.lab.options import AnyConfig
from experiments.lab.run import Parts as Parts
from experiments.lab.run import Run as Run
from experiments.lab.runs import (
  compilation,
  ending,
  files,
  versions,
  workdir,
)
from experiments.lab.runs.workdir import Files
from experiments.lab.training import devices, processes

# Prints the results in the summary of a finished run, except the verdicts.
Show = Callable[[AnyConfig, Run, Mapping[str, Any]], None]


def run(
  name: str,
  measure: Measure[AnyConfig],
  config: AnyConfig,
  where: Files = Files(),  # noqa: B008
  *,
  command: str = "",
  mesh: Mesh | None = None,
  show: Show[AnyConfig] = lambda config, run, summary: None,
) -> dict[str, Any]:
  """Runs a study, or shows the results of a finished one.

  Args:
    name: Name of the study.
    measure: Function that measures.
    config: The settings.
    where: Where to read and write.
    command: Command line that reproduces the run.
    mesh: Devices that share every batch; None for one device.
    show: Function that prints the results of a finished run.

  Returns:
    The content of `summary.json`.

  Raises:
    RefusedError: The settings are impossible, or the folder does not fit or is
      in use.
    StoppedError: Results could not be written. Those that were are kept.
  """
  opened = workdir.opened(name, config, where, command)
  is_new = not pathlib.Path(where.workdir or "", "config.json").exists()
  with processes.one_writes(repr((config, where.resume)), opened) as folder:
    config, began_with = workdir.recorded(folder, name, config, command)
    settings = dataclasses.asdict(config)
    current = Run(folder, where.data_dir, mesh, settings)

    def advice() -> str:
      # Other processes than the first one have another folder.
      again = to_continue(command, where.workdir or folder, where.data_dir)
      return f"{current.saved()} Continue with:\n{again}"

    with ending.advising(folder, advice):
      finished = workdir.summary(folder)
      if finished is not None:
        _show(finished, config, current, show)
        return finished
      if (folder / "summary.json").exists():
        logging.warning(
          "%s is damaged. It is made again from what was measured.",
          folder / "summary.json",
        )
      if where.resume and is_new:
        current.tell("There is nothing to resume yet: a new run begins.")
      if changes := versions.changes(began_with):
        current.tell(
          f"The run began with {changes}, so its numbers may change in the last"
          " digits."
        )
      return current.finish(measure(config, current) or {})


def _show(
  finished: Mapping[str, Any],
  config: AnyConfig,
  run: Run,
  show: Show[AnyConfig],
) -> None:
  """Prints the results of a finished run."""
  print(f"The run in {run.folder} is finished. Its results:")
  show(config, run, finished)
  for entry in finished["findings"]:
    print(Finding(**entry))
  for entry in finished["checks"]:
    print(Outcome(**entry))
  for name, checksum in finished["checksums"].items():
    path = run.folder / name
    if not path.exists() or files.sha256(path) != checksum:
      logging.warning("%s is not as the run wrote it.", path)


def command_line(name: str) -> str:
  """Returns the command line that reproduces the results, in any folder.

  Args:
    name: Name of the study, which is the name of its module.
  """
  kept = []
  arguments = iter(sys.argv[1:])
  for argument in arguments:
    flag, equals, _ = argument.lstrip("-").partition("=")
    if argument.startswith("-") and flag in ("workdir", "data_dir"):
      if not equals:
        next(arguments, None)  # Its value.
    elif argument not in ("--resume", "--noresume", "-resume"):
      kept.append(argument)
  return shlex.join(["python", "-m", f"experiments.{name}", *kept])


def to_continue(
  command: str, folder: str | pathlib.Path, data_dir: str | None = None
) -> str:
  """Returns the command line that continues a run.

  Args:
    command: From `command_line`.
    folder: Folder of the run.
    data_dir: As in `Files`.
  """
  more = ["--resume", f"--workdir={folder}"]
  more += [f"--data_dir={data_dir}"] if data_dir else []
  return f"{command} {shlex.join(more)}"


def main(
  study: Study[AnyConfig],
  *,
  complete: Callable[[AnyConfig, set[str]], AnyConfig] = (
    lambda config, given: config
  ),
  selected: Callable[[AnyConfig], Study[AnyConfig] | None] = (
    lambda config: None
  ),
  show: Show[AnyConfig] = lambda config, run, summary: None,
  several_devices: bool = False,
) -> None:
  """Runs a study from the command line, and exits.

  Args:
    study: The study.
    complete: Called with the settings and the names of the flags on the command
      line; returns the settings to use.
    selected: Returns the study that the settings choose, of which
      `--sensitivity` is then measured; None for `study` itself.
    show: As in `run`.
    several_devices: Whether to add the flags of devices and processes. The
      settings must then have a `batch_size`.
  """
  print_lines_at_once()
  read_flags = options.define(
    study.config, study.quick, study.full, study.confirm, study.sensitivity
  )
  if several_devices:
    connect, read_mesh = processes.define(), devices.define()
  program = sys.modules["__main__"]
  listed = claiming.explain(
    study.claims, study.checks, dataclasses.asdict(study.config)
  )
  program.__doc__ = f"{program.__doc__}\nClaims:\n{listed}\n"
  _show_flags_in_help()

  def start(argv: Sequence[str]) -> None:
    # The libraries log much that is of no use here; --verbosity=0 shows it.
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
      sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
    compilation.avoid_faults()
    compilation.keep_compiled()
    if flags.FLAGS.quick:
      compilation.compile_sooner()
    given = {flag for flag in flags.FLAGS if flags.FLAGS[flag].present}
    for preset in options.PRESETS:
      if preset in given and not flags.FLAGS[preset].value:
        given.remove(preset)
    try:
      config, where = read_flags()
      config = complete(config, given)
      options.refuse_unused(config, given)
      mesh = None
      if several_devices:
        connect()
        mesh = read_mesh(config.batch_size)  # type: ignore[attr-defined]
      ending.on_signals()
      name, measure, shown = study.name, study.measure, show
      if study.sensitivity and flags.FLAGS.sensitivity:
        varied = selected(config) or study
        name = sensitivity.name(study.name)
        measure = sensitivity.measure(varied, flags.FLAGS.vary)
        shown = sensitivity.show
      command = command_line(study.name)
      found = run(
        name, measure, config, where, command=command, mesh=mesh, show=shown
      )
      _advise_seeds(found, study)
    except RefusedError as error:
      sys.exit(str(error))
    except ending.StoppedError as error:
      ending.at_once(1, str(error))

  app.run(start)


def _advise_seeds(summary: Mapping[str, Any], study: Study[Any]) -> None:
  """Says what so few seeds can resolve of what they left open."""
  seeds = summary["config"].get("seeds", 1)
  registered = study.confirm.get("seeds", 0)
  claims = {claim.name: claim for claim in study.claims}
  unresolved = [
    claims[found["claim"]]
    for found in summary["findings"]
    if found["verdict"] == Verdict.UNRESOLVED and found["claim"] in claims
  ]
  if not unresolved or seeds >= registered:
    return
  print(
    f"So few seeds resolve little; --confirm uses {registered}. The distance"
    f" from the margin that they show in {resolution.SHARE:.0%} of the runs:"
  )
  for claim in unresolved:
    print(f"  {claim.name}: {resolution.resolved(claim, seeds, len(claims))}")


def print_lines_at_once() -> None:
  """Makes `print` write whole lines at once, also into a pipe."""
  if sys.stdout is not None:  # It is closed in some daemons.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _show_flags_in_help() -> None:
  """Makes `--help` show the flags of the lab as well as those of the study."""
  for module in (options, devices, processes):
    for flag in flags.FLAGS.get_flags_for_module(module.__name__):
      flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
