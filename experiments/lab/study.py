"""The frame of every study: from the command line to summary.json.

A study is a module with a frozen `Config` (see `options`), its `CLAIMS` (see
`claims`), a function that measures, and a call of `study.main`. CONTRIBUTING.md
has a small complete example.

The folder of a run holds config.json, the measurements so far (parts/,
checkpoints/), which `--resume` reuses, the figures, and at the end
summary.json:

    {"study": ..., "command": ..., "minutes": ..., "data": ..., "config": {...},
     "findings": [{"claim", "source", "criterion", "number", "verdict"}, ...],
     "figures": ["curves.png", ...]}
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging
from jax.sharding import Mesh

from experiments.lab import claims as claiming
from experiments.lab import options
from experiments.lab.claims import Claim, Finding
from experiments.lab.errors import RefusedError
from experiments.lab.options import AnyConfig
from experiments.lab.run import Parts as Parts
from experiments.lab.run import Run as Run
from experiments.lab.runs import compilation, files, workdir
from experiments.lab.runs.workdir import Files
from experiments.lab.training import devices, processes

# Measures, prints, draws and judges; may return more entries of the summary.
Measure = Callable[[AnyConfig, Run], Mapping[str, Any] | None]
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
    RefusedError: The settings are impossible, or the folder does not fit.
  """
  workdir.check(where.workdir, study=name, resume=where.resume)
  folder, made = workdir.prepare(where.workdir, name)
  current = Run(folder, where.data_dir, mesh)
  recorded = files.read_json(folder / "config.json")
  if recorded is not None:
    config = workdir.same_config(recorded, config)
    finished = files.read_json(folder / "summary.json")
    if finished is not None:
      print(f"The run in {folder} is finished. Its results:")
      show(config, current, finished)
      for entry in finished["findings"]:
        print(Finding(**entry))
      return finished
  else:
    files.write_json(folder / "config.json", dataclasses.asdict(config))
  try:
    results = measure(config, current) or {}
  except RefusedError:
    workdir.remove_unused(folder, made)
    raise
  return current.finish(name, command, config, results)


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


def main(
  name: str,
  measure: Measure[AnyConfig],
  small: AnyConfig,
  claims: Sequence[Claim],
  *,
  quick: Mapping[str, Any],
  full: Mapping[str, Any] | None = None,
  complete: Callable[[AnyConfig, set[str]], AnyConfig] = lambda config, _: (
    config
  ),
  show: Show[AnyConfig] = lambda config, run, summary: None,
  several_devices: bool = False,
) -> None:
  """Runs a study from the command line, and exits.

  Args:
    name: Name of the study, which is the name of its module.
    measure: Function that measures.
    small: The default settings.
    claims: The claims that it judges; `--help` shows them.
    quick, full: As in `options.define`.
    complete: Called with the settings and the names of the flags on the command
      line; returns the settings to use.
    show: As in `run`.
    several_devices: Whether to add the flags of devices and processes. The
      settings must then have a `batch_size`.
  """
  # Print lines at once, also in a pipe.
  sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
  read_flags = options.define(small, quick, full or {})
  if several_devices:
    connect, read_mesh = processes.define(), devices.define()
  program = sys.modules["__main__"]
  program.__doc__ = f"{program.__doc__}\nClaims:\n{claiming.explain(claims)}\n"
  _show_flags_in_help()

  def start(argv: Sequence[str]) -> None:
    # Orbax logs a lot; --verbosity=0 shows it.
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
      sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
    compilation.keep_compiled()
    given = {flag for flag in flags.FLAGS if flags.FLAGS[flag].present}
    given -= {"quick"} if not flags.FLAGS.quick else set()
    try:
      config, where = read_flags()
      config = complete(config, given)
      mesh = None
      if several_devices:
        connect()
        mesh = read_mesh(config.batch_size)  # type: ignore[attr-defined]
      with processes.one_writes(config, where) as where:
        command = command_line(name)
        run(name, measure, config, where, command=command, mesh=mesh, show=show)
    except RefusedError as error:
      sys.exit(str(error))

  app.run(start)


def _show_flags_in_help() -> None:
  """Makes `--help` show the flags of the lab as well as those of the study."""
  for module in (options, devices, processes):
    for flag in flags.FLAGS.get_flags_for_module(module.__name__):
      flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
