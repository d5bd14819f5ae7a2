import pathlib
import re
import tempfile
import threading
from unittest import mock

import requests
from absl.testing import absltest, parameterized

from experiments.lab.data import download
from tests.experiments.lab.data import http_files

FILES = {"a.gz": bytes(range(256)) * 999, "b.gz": b"short"}


class DownloadTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = (
      pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
      / "new"
      / "one"
    )
    self.server = self.enter_context(http_files.serve(FILES))

  def fetch(self):
    return download.fetch(self.server.sources.values(), self.folder)

  def contents(self):
    return {path.name: path.read_bytes() for path in self.folder.iterdir()}

  def test_fetches_whole_files_once(self):
    paths = self.fetch()
    self.assertEqual([path.name for path in paths], [*FILES])
    self.assertEqual(self.contents(), FILES)
    self.fetch()
    self.assertEqual(self.server.served, [*FILES])

  def test_takes_intact_files_without_a_network(self):
    self.folder.mkdir(parents=True)
    for name, content in FILES.items():
      (self.folder / name).write_bytes(content)
    sources = http_files.unreachable(FILES)
    self.assertLen(download.fetch(sources.values(), self.folder), 2)

  def test_replaces_a_damaged_file(self):
    self.folder.mkdir(parents=True)
    (self.folder / "a.gz").write_bytes(FILES["a.gz"][:-1])
    self.fetch()
    self.assertEqual(self.contents(), FILES)

  @parameterized.parameters("a.gz", "b.gz")
  def test_accepts_a_content_encoding_without_decoding(self, name):
    # Some servers declare so what is merely a file that ends in gz.
    self.server.faults[name] = "encoded"
    self.fetch()
    self.assertEqual(self.contents(), FILES)

  @parameterized.parameters(
    ("truncated", "bytes read|IncompleteRead"),
    ("no length", "got 127872 bytes"),
    ("corrupted", "got 255744 bytes"),
    ("missing", "404"),
    ("stalled", "timed out"),
  )
  def test_keeps_nothing_of_a_bad_download(self, fault, message):
    self.server.faults["a.gz"] = fault
    source = self.server.sources["a.gz"]
    with (
      mock.patch.object(download, "_SILENCE_SECONDS", 0.3),
      self.assertRaisesRegex(download.DownloadError, message) as caught,
    ):
      self.fetch()
    for part in (source.url, source.sha256, "255744", str(self.folder)):
      self.assertIn(part, str(caught.exception))
    self.assertEqual(self.contents(), {})
    self.server.faults.clear()
    self.fetch()
    self.assertEqual(self.contents(), FILES)

  def test_keeps_the_good_files_of_a_failed_attempt(self):
    self.server.faults["b.gz"] = "missing"
    with self.assertRaises(download.DownloadError):
      self.fetch()
    self.assertEqual(self.contents(), {"a.gz": FILES["a.gz"]})
    self.server.faults.clear()
    self.fetch()
    self.assertEqual(self.server.served, ["a.gz", "b.gz", "b.gz"])

  def test_stops_when_more_comes_than_expected(self):
    sources = self.server.sources
    self.server.files["a.gz"] *= 100
    with self.assertRaisesRegex(
      download.DownloadError, r"Expected 255744 .* got [23]\d{5} bytes"
    ):
      download.fetch(sources.values(), self.folder)
    self.assertEqual(self.contents(), {})


class ReachableTest(absltest.TestCase):
  def test_names_the_host_that_refuses(self):
    (source,) = http_files.unreachable({"a": b""}).values()
    host = source.url.split("/")[2]
    with self.assertRaisesRegex(
      download.DownloadError, f"{re.escape(host)} cannot be reached.*refused"
    ):
      download.check_reachable([source.url])

  def test_every_host_is_tried(self):
    (bad,) = http_files.unreachable({"a": b""}).values()
    with http_files.serve({"a": b""}) as server:
      (good,) = server.sources.values()
      with self.assertRaises(download.DownloadError):
        download.check_reachable([good.url, bad.url])
      download.check_reachable([good.url, good.url])
    download.check_reachable([])

  def test_a_silent_host_is_unreachable(self):
    with http_files.serve({"a": b""}) as server:
      server.faults["a"] = "silent"
      (source,) = server.sources.values()
      with self.assertRaisesRegex(download.DownloadError, "cannot be reached"):
        download.check_reachable([source.url], seconds=0.2)

  def test_does_not_wait_for_a_name_server(self):
    asked = threading.Event()
    self.addCleanup(asked.set)
    with (
      mock.patch.object(requests, "head", lambda *_, **__: asked.wait()),
      self.assertRaisesRegex(download.DownloadError, "no answer in 0.2 s"),
    ):
      download.check_reachable(["http://127.0.0.1/a"], seconds=0.2)


if __name__ == "__main__":
  absltest.main()
