"""What the norm, and its place, do to the training of a transformer.

    python -m experiments.transformer --norm=ln --placement=pre --sample=500
    python -m experiments.transformer --norm=ln,rms --placement=pre,post

A character language model on tiny_shakespeare: 4 blocks of width 128, AdamW
3e-3 with warm-up and a cosine, 2,500 batches of 16 x 64 characters. On two CPU
cores the first command takes about three minutes and ends at 1.6 nats per
character. On a GPU, `--scale=full` (6 blocks of width 384, 256 characters of
context) is the setting with which nanoGPT reports 1.47 after three minutes on
an A100. `--task=mnist`, `copy` and `sort` are other tasks, the last two with
padding.

Four studies test claims on character models, each with five paired seeds
(same initial kernels, batches and order) and criteria fixed before the runs;
they take about ten, one, five and two minutes:

    python -m experiments.transformer --study=warmup
    python -m experiments.transformer --study=depth
    python -m experiments.transformer --study=norms
    python -m experiments.transformer --study=batch_norm

WARMUP. Xiong et al., 2020, https://arxiv.org/abs/2002.04745: post-LN needs
learning-rate warm-up, pre-LN does not. 12 blocks of width 48, Xavier's
initialization, no clipping, no decay, Adam with b2 = 0.98; learning rates 1e-3
and 3e-3, with 100 steps of warm-up or none, 300 steps. Validation loss after
the last step, in nats per character:
  1. Without warm-up at 3e-3, post-LN is worse than pre-LN by more than 0.5.
  2. Warm-up takes more than 0.25 off that difference, at 3e-3 and at 1e-3.
  3. Pre-LN needs no warm-up: at the better of the two learning rates, its loss
     without is less than 0.05 above that with it.

(Changed after a first run, with LeCun's initialization, in which post-LN did
not train in any of its four cells, warm-up or not: the initialization, which is
now the paper's, and the second learning rate of claim 2.)

DEPTH. The same paper, theorem 1: at initialization the gradient of the last
block's second feed-forward kernel does not depend on the number of blocks L
in post-LN, and falls like 1/sqrt(L) in pre-LN. 2 to 24 blocks of width 48,
LeCun's initialization, no training. The exponent of L is fitted on logarithms,
seed by seed:
  1. Post-LN: within 0.15 of 0.
  2. Pre-LN: within 0.15 of -1/2.
(With --kernel_init=xavier, tried when the study of warm-up changed, sub-layers
start smaller beside the embedding, and both were unresolved on
tiny_shakespeare: 0.106 ± 0.047 and -0.366 ± 0.046.)

NORMS. Zhang & Sennrich, 2019, https://arxiv.org/abs/1910.07467: RMSNorm
does what LayerNorm does, in less time. Henry et al., 2020,
https://arxiv.org/abs/2010.04245: normalized queries and keys keep attention
from saturating. 4 blocks of width 48, pre-LN, no warm-up, learning rates 1e-3,
3e-3 and 1e-2, and 3e-2 with and without QK norm, 300 steps:
  1. RMSNorm's loss is within 0.05 nats of LayerNorm's, at each learning rate.
  2. A training step takes less time with RMSNorm: ratio below 1 (20 pairs of
     timings in turns, in one process).
  3. No norm at all: worse by more than 0.05 nats, at each learning rate.
  4. At 3e-2, the largest attention logit is more than 10 times as large
     without QK norm as with it.

BATCH_NORM. Shen et al., 2020, https://arxiv.org/abs/2003.07845: batch norm
in transformers suffers from statistics that vary from batch to batch. 4 blocks
of width 48, learning rate 3e-3, 300 steps. Running statistics (momentum 0.9),
against those of each batch, for the same parameters:
  1. Layer norm: the two validation losses are equal, within 1e-4. (At first
     "equal to the last bit", which a first run refuted by a rounding of 2e-7.)
  2. Batch norm: they differ by more than 0.02 nats.
  3. Batch norm ends worse than layer norm by more than 0.05 nats, evaluated
     with running statistics; and (4.) also with re-estimated ones.

Each claim is CONFIRMED or REFUTED where the whole 95% interval (Student t, of
the differences between paired seeds) is on one side, else UNRESOLVED.

The results are in the workdir: config.json, metrics.jsonl (a line per
evaluation, a number per seed), summary.json, figures, checkpoints/ and
tensorboard/. A run that was killed goes on with --resume --workdir=... and ends
with the numbers of one that was not.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging
from jax.sharding import Mesh

from experiments.lab import (
  checkpoints,
  compilation,
  data,
  devices,
  processes,
  reporting,
  study,
  transformer_depth,
  transformer_figures,
  transformer_report,
  transformer_run,
  transformer_studies,
  transformer_verdicts,
)
from experiments.lab import flags as lab_flags
from experiments.lab.transformer_options import FULL, QUICK, Config

NAME = "transformer"

Results = dict[str, dict[str, Any]]


def run(
  config: Config,
  files: lab_flags.Files = lab_flags.Files(),  # noqa: B008
  *,
  sample: int = 0,
  command: str = "",
  mesh: Mesh | None = None,
) -> dict[str, Any]:
  """Trains what the configuration asks for, compares and judges.

  Args:
    config: The setting.
    files: Where to read and write.
    sample: Tokens of text to print from each model.
    command: What a reader types for the same.
    mesh: Devices that share every batch; None for one.

  Returns:
    What `summary.json` holds.

  Raises:
    study.RefusedError: The setting is impossible.
    checkpoints.WorkdirError: The workdir cannot serve it.
    data.UnavailableError: There are no data.
  """
  checkpoints.check_workdir(files.workdir, study=NAME, resume=files.resume)
  finished = None
  if files.workdir:
    folder = pathlib.Path(files.workdir)
    recorded = checkpoints.read_json(folder / "config.json")
    if recorded is not None:
      if config.dataset == "auto":  # What it stood for then, whatever now.
        config = dataclasses.replace(config, dataset=recorded["dataset"])
      checkpoints.check_same_config(recorded, dataclasses.asdict(config))
    finished = checkpoints.read_json(folder / "summary.json")
  if finished is not None and not sample:
    print(f"The run in {folder} is finished. Its results:")
    for name, result in finished["models"].items():
      print(f"\n{name}")
      print("\n".join(transformer_report.result_lines(result)))
    _print_end(finished)
    return finished

  task = transformer_run.load_task(config, files.data_dir)
  processes.check_same_data(task.name, (task.data, task.validation, task.test))
  if config.task in ("lm", "mnist"):
    config = dataclasses.replace(config, dataset=task.name)
  models = transformer_studies.models(config)
  for model in models.values():
    transformer_run.check(model, task)
  if not files.workdir:
    folder = checkpoints.new_workdir(NAME)
  reporting.write_json(folder / "config.json", dataclasses.asdict(config))
  print(
    f"{task.name}: {len(task.validation.targets):,} sequences of"
    f" {task.context} for validation. {devices.describe(mesh)}. Results go to"
    f" {folder}"
  )
  current = study.Run(folder, files.data_dir)
  current.data = task.name
  if config.study == "depth":
    transformer_depth.measure(config, task, current)
    return current.finish(NAME, command, config, models={})

  saved = {
    name: checkpoints.Checkpoints(
      folder / "checkpoints" / name.replace(" ", "-")
    )
    for name in models
  }
  records = {name: list(saved[name].records()) for name in models}
  current.count_earlier(
    sum(record["seconds"] for found in records.values() for record in found)
  )
  results: Results = {}
  with reporting.MetricsLog(
    folder, [record for name in models for record in records[name]]
  ) as log:
    for name, model in models.items():
      with saved[name]:
        results[name] = transformer_run.train(
          name,
          model,
          task,
          saved[name],
          records[name],
          log,
          both_modes=config.study == "batch_norm",
          sample=sample,
          mesh=mesh,
        )
  transformer_figures.curves(current, config, records)
  if len(results) > 1:
    print(f"\n{transformer_report.comparison_table(results)}\n")
  transformer_verdicts.judge(current, config, task, results, records)
  return current.finish(NAME, command, config, models=results)


def _print_end(summary: dict[str, Any]) -> None:
  if len(summary["models"]) > 1:
    print(f"\n{transformer_report.comparison_table(summary['models'])}\n")
  for finding in summary["findings"]:
    print("{verdict}: {claim} ({criterion}: {number})".format(**finding))


def main(
  argv: Sequence[str],
  read_flags: Callable[[], tuple[Config, lab_flags.Files]],
  read_mesh: Callable[[int], Mesh | None],
  connect: Callable[[], None],
) -> None:
  """Runs the study as the command line asks."""
  # Orbax tells a lot, which --verbosity=0 shows.
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    sys.exit(f"Not a flag: {' '.join(argv[1:])}. See --help.")
  compilation.keep_compiled()
  given = {name for name in flags.FLAGS if flags.FLAGS[name].present}
  try:
    config, files = read_flags()
    config = transformer_studies.with_defaults(
      config, given, quick=flags.FLAGS.quick
    )
    connect()
    mesh = read_mesh(config.batch_size)
    with processes.one_writes(config, files) as files:
      run(
        config,
        files,
        sample=flags.FLAGS.sample,
        command=study.command_line(NAME),
        mesh=mesh,
      )
  except (
    study.RefusedError,
    checkpoints.WorkdirError,
    data.UnavailableError,
    devices.DevicesError,
  ) as error:
    sys.exit(str(error))


if __name__ == "__main__":
  # In a pipe, too, a line appears when it is printed.
  sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
  read_flags = study.define(Config(), QUICK, FULL)
  flags.DEFINE_integer(
    "sample",
    0,
    "Print so many tokens of text from the best parameters of each model; with"
    " --resume, of a finished run too.",
    lower_bound=0,
  )
  read_mesh = devices.define()
  connect = processes.define()
  for module in (study, devices, processes):  # Shown by --help.
    flags.adopt_module_key_flags(module)
  app.run(
    functools.partial(
      main, read_flags=read_flags, read_mesh=read_mesh, connect=connect
    )
  )
