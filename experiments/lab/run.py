"""One run of a study: its folder, its measurements, its verdicts."""

import contextlib
import io
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from experiments.lab import claims as claiming
from experiments.lab.claims import Check, Claim, Finding, Outcome
from experiments.lab.data import arrays
from experiments.lab.data.batch import Batch
from experiments.lab.runs import files, workdir
from experiments.lab.runs.checkpoints import Checkpoints
from experiments.lab.statistics import Seeds
from experiments.lab.training import devices, processes
from experiments.lab.training.session import Session

if TYPE_CHECKING:
  from matplotlib.figure import Figure

Parts = dict[str, np.ndarray]


class Run:
  """One run: its folder, and what it has found so far.

  Attributes:
    folder: Folder of the results.
    settings: Settings of the study, for the sentences of its claims.
    data_dir: Folder of TensorFlow Datasets; None means the default.
    mesh: Devices that share every batch; None for one device.
    data: Name of the loaded data; None before they are loaded.
    rates: How the learning rates were chosen: a `tuning.RateChoice` as a dict,
      by arm.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    data_dir: str | None = None,
    mesh: Mesh | None = None,
    settings: Mapping[str, Any] = {},
  ):
    self.folder = folder
    self.settings = settings
    self.data_dir = data_dir
    self.mesh = mesh
    self.data: str | None = None
    self.rates: dict[str, Any] = {}
    self._judged: list[tuple[Claim, Sequence[Seeds]]] = []
    self._checks: list[Outcome] = []
    self._figures: list[str] = []
    self._session: Session | None = None
    self._began = False
    self._told: list[str] = []
    self._parent: Run | None = None
    self._change: Mapping[str, Any] = {}
    self._started = time.perf_counter()

  def part(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> Parts:
    """Returns the result of `measure`, loaded from a file if it exists.

    Args:
      name: A file name without suffix, unique among the parts of the study.
      measure: Returns arrays by name.
    """
    self._begin()
    path = self.folder / "parts" / f"{name}.npz"
    try:
      found = files.read_arrays(path)
    except files.DamagedError as error:
      logging.warning("%s It is measured again.", error)
      found = None
    if found is None:
      began = time.perf_counter()
      measured = measure()
      seconds = time.perf_counter() - began
      files.write_arrays(path, dict(seconds=seconds, **measured))
      print(f"{name}: {seconds:.1f} s", flush=True)
      found = {key: np.asarray(value) for key, value in measured.items()}
    else:
      self.count_earlier(float(found.pop("seconds")))
    return found

  def variation(self, name: str, change: Mapping[str, Any]) -> "Run":
    """Returns a run of the same study with other settings, in a subfolder.

    Args:
      name: Name of the subfolder.
      change: The settings that differ.
    """
    settings = {**self.settings, **change}
    varied = Run(self.folder / name, self.data_dir, self.mesh, settings)
    for folder in (varied.folder, varied.folder / "parts"):
      files.remove_incomplete(folder)
    varied._parent, varied._change = self, change
    return varied

  def finished(self) -> dict[str, Any] | None:
    """Returns the summary if this run is finished already."""
    summary = workdir.summary(self.folder)
    if summary is not None:
      self.count_earlier(summary["minutes"] * 60)
      self._record_data(summary["data"])
    return summary

  @contextlib.contextmanager
  def trainings(
    self, names: Sequence[str], label: str = "model"
  ) -> Iterator[Session]:
    """Yields a session for training models with checkpoints.

    Args:
      names: Names of the models.
      label: Key of a model's name in metrics.jsonl.
    """
    self._begin()
    with Session(self.folder, names, label) as session:
      self.count_earlier(session.seconds)
      self._session = session
      yield session

  def saved(self) -> str:
    """Returns a sentence about what a resumed run need not compute again."""
    count = len([*self.folder.glob("**/parts/[!.]*.npz")])
    kept = [f"{count} measurement{'s' * (count > 1)}"] if count else []
    kept += (
      self._session.saved()
      if self._session
      else [
        f"{path.name} up to step {step}"
        for path in sorted(self.folder.glob("checkpoints/*"))
        if (step := Checkpoints(path).latest_step())
      ]
    )
    return f"Saved: {', '.join(kept)}." if kept else "Nothing was saved yet."

  def tell(self, text: str) -> None:
    """Prints a sentence once the run begins; a refused run prints none."""
    if self._began:
      print(text)
    else:
      self._told.append(text)

  def _begin(self) -> None:
    if not self._began:
      self._began = True
      print(" ".join([*self._told, f"Results go to {self.folder}"]))

  def count_earlier(self, seconds: float) -> None:
    """Adds the time of work that was done before a resumption."""
    self._started -= seconds
    if self._parent is not None:
      self._parent.count_earlier(seconds)

  def use_data(self, name: str, data: Any) -> None:
    """Records which data were loaded, so that a resumed run uses the same.

    Args:
      name: Name of the data.
      data: Arrays of the data, on the host; the same in all processes.

    Raises:
      DevicesError: The processes have different data.
    """
    processes.check_same_data(name, data)
    self._record_data(name)

  def _record_data(self, name: str) -> None:
    self.data = name
    if self._parent is not None:
      self._parent._record_data(name)
    path = self.folder / "config.json"
    recorded = files.read_record(path)
    if recorded and recorded["config"].get("dataset") == "auto":
      recorded["config"]["dataset"] = name
      files.write_record(path, recorded)

  def load_images(self, dataset: str, **options: Any) -> arrays.Images[Batch]:
    """Loads images onto the devices.

    Args:
      dataset: As in `images.load`.
      **options: Options of `arrays.load`.

    Raises:
      RefusedError: The data set does not exist or is not available.
    """
    found = arrays.load(dataset, self.data_dir, **options)
    self.use_data(found.name, (found.train, found.validation, found.test))
    found = found._replace(
      train=devices.share(found.train, self.mesh),
      validation=devices.replicate(found.validation, self.mesh),
      test=devices.replicate(found.test, self.mesh),
    )
    self.tell(f"{found}. {devices.describe(self.mesh)}.")
    return found

  def load_pool(self, dataset: str, **options: Any) -> arrays.Pool:
    """Loads images onto the devices, from which every seed draws its own sets.

    Args:
      dataset: As in `images.load`.
      **options: Options of `arrays.load_pool`.

    Raises:
      RefusedError: The data set does not exist or is not available.
    """
    found = arrays.load_pool(dataset, self.data_dir, **options)
    self.use_data(found.name, found.examples)
    found = found._replace(
      examples=devices.replicate(found.examples, self.mesh)
    )
    self.tell(f"{found}. {devices.describe(self.mesh)}.")
    return found

  def figure(self, name: str, figure: "Figure") -> None:
    """Writes `NAME.png` and lists it in the summary."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    files.write_bytes(self.folder / f"{name}.png", buffer.getvalue())
    self._figures.append(f"{name}.png")

  def judge(self, claim: Claim, *samples: Seeds) -> None:
    """Takes what a claim is judged by; all are judged together at the end.

    Args:
      claim: What to judge.
      *samples: A number per seed for each of `claim.samples`; the same seeds in
        the same order, None or NaN where one diverged.
    """
    self._begin()
    claim.analysis.estimate(*samples)  # Raises the errors of wrong samples.
    self._judged.append((claim, samples))

  def findings(self) -> list[Finding]:
    """Returns the verdicts, corrected for the number of claims so far."""
    return claiming.judged(self._judged, self.settings)

  def check(self, check: Check, number: float) -> Outcome:
    """Compares a number with its limit, prints and keeps the outcome."""
    self._begin()
    outcome = check.outcome(float(number))
    self._checks.append(outcome)
    print(outcome)
    return outcome

  def record_rates(self, arm: str, choice: Any) -> None:
    """Keeps how the learning rate of an arm was chosen, for the summary."""
    self.rates[arm] = choice._asdict()

  def finish(self, results: Mapping[str, Any]) -> dict[str, Any]:
    """Prints the verdicts, then writes and returns the summary.

    Args:
      results: More entries of the summary, JSON values.
    """
    findings = self.findings()
    for finding in findings:
      print(finding)
    written = [*self._figures]
    written += ["metrics.jsonl"] if self._session else []
    summary = {
      **self._begun(),
      "minutes": round((time.perf_counter() - self._started) / 60, 2),
      "data": self.data,
      "rates": self.rates,
      "findings": [finding._asdict() for finding in findings],
      "checks": [outcome._asdict() for outcome in self._checks],
      "figures": self._figures,
      "checksums": {name: files.sha256(self.folder / name) for name in written},
      **results,
    }
    files.write_record(self.folder / "summary.json", summary)
    return files.plain(summary)

  def _begun(self) -> dict[str, Any]:
    """Returns what is known of the run since its start."""
    if self._parent is None:
      return files.read_record(self.folder / "config.json") or {}
    begun = self._parent._begun()
    config = {**begun.get("config", {}), **self._change}
    return {**begun, "config": config, "change": self._change}
