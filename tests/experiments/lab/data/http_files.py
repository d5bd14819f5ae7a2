"""A server on the loopback interface that fails in every way on request."""

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator, Mapping

from experiments.lab.data import download


class Server(http.server.ThreadingHTTPServer):
  """Serves `files` by name; `faults` says which of them go wrong, and how."""

  daemon_threads = True

  def __init__(self, files: Mapping[str, bytes]):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.files = dict(files)
    self.faults: dict[str, str] = {}
    self.served: list[str] = []  # Names of the files asked for with GET.
    self.closing = threading.Event()

  @property
  def sources(self) -> dict[str, download.Source]:
    """The files as they should be."""
    host, port = self.server_address[:2]
    return {
      name: download.Source(
        f"http://{host}:{port}/folder/{name}",
        len(content),
        hashlib.sha256(content).hexdigest(),
      )
      for name, content in self.files.items()
    }


@contextlib.contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[Server]:
  with Server(files) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
      yield server
    finally:
      server.closing.set()
      server.shutdown()
      thread.join()


def unreachable(files: Mapping[str, bytes]) -> dict[str, download.Source]:
  """Sources at a port that nobody listens to."""
  with Server(files) as server:
    return server.sources


class _Handler(http.server.BaseHTTPRequestHandler):
  server: Server

  def log_message(self, *args):
    del args

  def do_HEAD(self):
    if "silent" in self.server.faults.values():
      self.server.closing.wait(20)
      return
    self.send_response(200)
    self.end_headers()

  def do_GET(self):
    name = self.path.rsplit("/", 1)[-1]
    self.server.served.append(name)
    content = self.server.files[name]
    fault = self.server.faults.get(name)
    if fault == "missing":
      self.send_error(404)
      return
    self.send_response(200)
    if fault != "no length":
      self.send_header("Content-Length", str(len(content)))
    if fault == "encoded":
      self.send_header("Content-Encoding", "gzip")
    self.end_headers()
    half = len(content) // 2
    match fault:
      case "truncated" | "no length":
        self.wfile.write(content[:half])
      case "corrupted":
        flipped = content[half] ^ 1
        self.wfile.write(
          content[:half] + bytes([flipped]) + content[half + 1 :]
        )
      case "stalled":
        self.wfile.write(content[:half])
        self.wfile.flush()
        self.server.closing.wait(20)
      case _:
        self.wfile.write(content)
