"""One run of a study: its folder, its measurements, its verdicts."""

import contextlib
import dataclasses
import io
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.sharding import Mesh

from experiments.lab.claims import Claim, Finding
from experiments.lab.data import arrays
from experiments.lab.options import Config
from experiments.lab.runs import files
from experiments.lab.training import devices, processes
from experiments.lab.training.session import Session

if TYPE_CHECKING:
  from matplotlib.figure import Figure

Parts = dict[str, np.ndarray]


class Run:
  """One run: its folder, and its findings so far.

  Attributes:
    folder: Folder of the results.
    data_dir: Folder of TensorFlow Datasets; None means the default.
    mesh: Devices that share every batch; None for one device.
    data: Name of the loaded data; None before they are loaded.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    data_dir: str | None = None,
    mesh: Mesh | None = None,
  ):
    self.folder = folder
    self.data_dir = data_dir
    self.mesh = mesh
    self.data: str | None = None
    self._findings: list[Finding] = []
    self._figures: list[str] = []
    self._began = False
    self._told: list[str] = []
    self._started = time.perf_counter()

  def part(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> Parts:
    """Returns the result of `measure`, loaded from a file if it exists.

    Args:
      name: A file name without suffix, unique among the parts of the study.
      measure: Returns arrays by name.
    """
    self._begin()
    path = self.folder / "parts" / f"{name}.npz"
    if path.exists():
      with np.load(path) as file:
        found = dict(file)
      self.count_earlier(float(found.pop("seconds")))
      return found
    began = time.perf_counter()
    found = {key: np.asarray(value) for key, value in measure().items()}
    seconds = time.perf_counter() - began
    buffer = io.BytesIO()
    np.savez(buffer, seconds=np.asarray(seconds), **found)
    files.write_bytes(path, buffer.getvalue())
    print(f"{name}: {seconds:.1f} s", flush=True)
    return found

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
      yield session

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

  def use_data(self, name: str, data: Any) -> None:
    """Records which data were loaded, so that a resumed run uses the same.

    Args:
      name: Name of the data.
      data: Arrays of the data, on the host; the same in all processes.

    Raises:
      DevicesError: The processes have different data.
    """
    processes.check_same_data(name, data)
    self.data = name
    path = self.folder / "config.json"
    config = files.read_json(path)
    if config and config.get("dataset") == "auto":
      files.write_json(path, {**config, "dataset": name})

  def load_images(self, dataset: str, **options: Any) -> arrays.Images:
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

  def figure(self, name: str, figure: "Figure") -> None:
    """Writes `NAME.png` and lists it in the summary."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    files.write_bytes(self.folder / f"{name}.png", buffer.getvalue())
    self._figures.append(f"{name}.png")

  def judge(self, claim: Claim, quantity: Any, **settings: Any) -> Finding:
    """Judges a claim, adds the finding to the summary and prints it.

    Args:
      claim: What to judge.
      quantity, **settings: As in `Claim.judge`.
    """
    self._begin()
    finding = claim.judge(quantity, **settings)
    self._findings.append(finding)
    print(finding)
    return finding

  def finish(
    self, name: str, command: str, config: Config, results: Mapping[str, Any]
  ) -> dict[str, Any]:
    """Writes and returns the summary.

    Args:
      name: Name of the study.
      command: Command line that reproduces the run.
      config: The settings.
      results: More entries of the summary, JSON values.
    """
    recorded = files.read_json(self.folder / "config.json")
    summary = {
      "study": name,
      "command": command,
      "minutes": round((time.perf_counter() - self._started) / 60, 2),
      "data": self.data,
      "config": recorded or dataclasses.asdict(config),
      "findings": [finding._asdict() for finding in self._findings],
      "figures": self._figures,
      **results,
    }
    files.write_json(self.folder / "summary.json", summary)
    return summary
