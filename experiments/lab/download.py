"""Files from the network: whole and with the right checksum, or not at all."""

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

from experiments.lab import atomic

# A run that can go on without a download must hear soon that it has to: 10
# seconds, start of the process and both of these included.
_PROBE_SECONDS = 4.0
_SILENCE_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a file comes from and how it is recognized.

  Attributes:
    url: Its address.
    size: In bytes.
    sha256: Its checksum, in hexadecimal.
  """

  url: str
  size: int
  sha256: str

  @property
  def filename(self) -> str:
    return pathlib.PurePosixPath(urllib.parse.urlsplit(self.url).path).name


class DownloadError(RuntimeError):
  """A file could not be downloaded; the message says which, why, what to do."""


def fetch(
  sources: Iterable[Source], folder: pathlib.Path
) -> list[pathlib.Path]:
  """Returns local copies of files, downloading those that are not there yet.

  Files already in `folder` are used if their checksums match, wherever they
  came from. Downloads go to temporary files, which are renamed only once their
  checksums match.

  Args:
    sources: The files.
    folder: Where they are kept. Made if missing.

  Returns:
    One path for each source.

  Raises:
    DownloadError: A host is unreachable, refuses or falls silent, or what it
      sent is not the file. Files that did arrive stay for the next attempt.
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
  """Raises `DownloadError` where a host of `urls` does not answer in time.

  Any answer counts, an HTTP error too.

  Args:
    urls: Addresses; one for each host is tried, all at the same time.
    seconds: How long to wait for all of them together.
  """
  hosts = {urllib.parse.urlsplit(url).netloc: url for url in urls}
  results: dict[str, Exception | None] = {}

  def probe(host: str, url: str) -> None:
    try:
      requests.head(url, timeout=seconds).close()
      results[host] = None
    except Exception as error:  # Of any kind, or it would be lost.
      results[host] = error

  # Looking up a name knows no timeout, and may take a minute where the network
  # is half there: hence threads, which nobody waits for at exit.
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
      raise DownloadError(f"{host} cannot be reached ({error}).") from error


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
  with atomic.replacing(path) as file:
    try:
      # The server must not wrap what is compressed already: the checksum is
      # that of the file as stored.
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
        f"{received} bytes with SHA-256 {digest.hexdigest()}. Nothing of it "
        "was kept. Run the same command again, or bring the file from another "
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
