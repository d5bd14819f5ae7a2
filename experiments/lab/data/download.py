"""Downloads files, and keeps only those with the right checksum."""

import dataclasses
import hashlib
import pathlib
import threading
import time
import urllib.parse
from collections.abc import Iterable

import requests
import tqdm
import urllib3
from absl import logging

from experiments.lab.runs import files

# A run that can do without a download should know within 10 seconds that it
# must; this includes starting the process and both of these timeouts.
_PROBE_SECONDS = 4.0
_SILENCE_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a file comes from and how it is recognized.

  Attributes:
    url: Address of the file.
    size: Size in bytes.
    sha256: Checksum, in hexadecimal.
  """

  url: str
  size: int
  sha256: str

  @property
  def filename(self) -> str:
    return pathlib.PurePosixPath(urllib.parse.urlsplit(self.url).path).name


class DownloadError(RuntimeError):
  """A download failed; the message says which, why, and what to do."""


def fetch(
  sources: Iterable[Source], folder: pathlib.Path
) -> list[pathlib.Path]:
  """Returns local copies of files, and downloads those that are missing.

  Files already in `folder` are used if their checksums match, wherever they
  came from. Downloads go to temporary files, which are renamed after their
  checksums match.

  Args:
    sources: The files.
    folder: Folder of the local copies. Created if missing.

  Returns:
    One path for each source.

  Raises:
    DownloadError: A host is unreachable, refuses or stops answering, or sent
      another file. Complete files are kept for the next attempt.
    OSError: `folder` cannot be written.
  """
  paths = {source: folder / source.filename for source in sources}
  missing = [s for s, path in paths.items() if not _is_intact(s, path)]
  check_reachable(source.url for source in missing)
  for source in missing:
    _download(source, paths[source])
  return list(paths.values())


def check_reachable(
  urls: Iterable[str], seconds: float = _PROBE_SECONDS
) -> None:
  """Raises `DownloadError` if a host of `urls` does not answer in time.

  Any answer counts, including an HTTP error.

  Args:
    urls: Addresses; one per host is tried, all at the same time.
    seconds: Timeout for all of them together.
  """
  hosts = {urllib.parse.urlsplit(url).netloc: url for url in urls}
  results: dict[str, Exception | None] = {}

  def probe(host: str, url: str) -> None:
    try:
      requests.head(url, timeout=seconds).close()
      results[host] = None
    except Exception as error:  # Any kind: a thread would lose it.
      results[host] = error

  # A DNS lookup has no timeout, and may take a minute on a broken network. So
  # it runs in daemon threads, which do not delay the exit.
  threads = [
    threading.Thread(target=probe, args=item, daemon=True)
    for item in hosts.items()
  ]
  for thread in threads:
    thread.start()
  deadline = time.monotonic() + seconds
  for thread in threads:
    thread.join(max(0.0, deadline - time.monotonic()))
  for host in hosts:
    error = results.get(host, TimeoutError(f"no answer in {seconds:g} s"))
    if error is not None:
      raise DownloadError(
        f"{host} cannot be reached ({_first_cause(error)})."
      ) from error


def _first_cause(error: BaseException) -> BaseException:
  """Returns the first error of a chain; the others repeat it at length."""
  while error.__context__ is not None:
    error = error.__context__
  return error


def _is_intact(source: Source, path: pathlib.Path) -> bool:
  try:
    with path.open("rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest() == source.sha256
  except FileNotFoundError:
    return False


def _download(source: Source, path: pathlib.Path) -> None:
  """Downloads one file to `path`, or raises `DownloadError`."""
  digest = hashlib.sha256()
  received = 0
  problem = ""
  with files.replacing(path) as file:
    try:
      # No compression on the way: the checksum is that of the stored file.
      with (
        requests.get(
          source.url,
          headers={"Accept-Encoding": "identity"},
          stream=True,
          timeout=_SILENCE_SECONDS,
        ) as response,
        _bar(source) as bar,
      ):
        response.raise_for_status()
        for chunk in response.raw.stream(2**16, decode_content=False):
          digest.update(chunk)
          received += len(chunk)
          bar.update(len(chunk))
          if received > source.size:
            break
          file.write(chunk)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
      problem = str(error).rstrip(".") + ". "
    if problem or digest.hexdigest() != source.sha256:
      raise DownloadError(
        f"Downloading {source.url} failed: {problem}"
        f"Expected {source.size} bytes with SHA-256 {source.sha256}, got "
        f"{received} bytes with SHA-256 {digest.hexdigest()}. Nothing was "
        "kept. Run the same command again, or copy the file from another "
        f"machine to {path}."
      )
  logging.info("Downloaded %s to %s.", source.url, path)


def _bar(source: Source) -> tqdm.tqdm:
  return tqdm.tqdm(
    desc=f"Downloading {source.filename}",
    total=source.size,
    unit="B",
    unit_scale=True,
    leave=False,
    disable=None,  # None shows it on terminals only.
  )
