"""An object store on this machine that speaks Google's JSON API as far as gcsfs and TensorStore use it.

There is no append, no rename, no copy and no compose: whoever asks for one is refused, and the request is
kept in `refused`. Objects appear whole or not at all. https://cloud.google.com/storage/docs/json_api
"""

import base64
import contextlib
import hashlib
import http.server
import itertools
import json
import re
import sys
import threading
import urllib.parse
from collections.abc import Iterator

import google_crc32c
import pytest

BUCKET = "bucket"


class ObjectStore:
  """Objects of one bucket behind a local port. Use as a context manager."""

  def __init__(self):
    self.objects: dict[str, bytes] = {}  # name -> contents; tests may read and damage them
    self.written: list[tuple[str, int]] = []  # (name, bytes) of every write, in order
    self.refused: list[str] = []  # what an object store cannot do, and was asked for
    self._generations: dict[str, int] = {}
    self._sessions: dict[str, tuple[str, bool, bytearray]] = {}
    self._numbers, self._lock = itertools.count(1), threading.RLock()
    self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self._server.server_address[1]}"

  @property
  def environment(self) -> dict[str, str]:
    """What makes gcsfs, google-cloud-storage and TensorStore take this store for Google's."""
    return {
      "STORAGE_EMULATOR_HOST": self.url,
      "TENSORSTORE_GCS_HTTP_URL": self.url,
      "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
      "GOOGLE_CLOUD_PROJECT": "none",
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    }

  def names(self, prefix: str) -> list[str]:
    """The names of the objects below a prefix, without it."""
    with self._lock:
      return sorted(name.removeprefix(prefix) for name in self.objects if name.startswith(prefix))

  def __enter__(self) -> "ObjectStore":
    return self

  def __exit__(self, *_) -> None:
    self._server.shutdown()
    self._server.server_close()

  def put(self, name: str, data: bytes, *, only_new: bool = False, generation: int | None = None) -> dict | None:
    """The resource of the new object, or None where the precondition does not hold."""
    with self._lock:
      there = self._generations.get(name, 0)
      if (only_new and there) or (generation is not None and generation != there):
        return None
      self.objects[name], self._generations[name] = bytes(data), next(self._numbers)
      self.written.append((name, len(data)))
      return self.resource(name)

  def delete(self, name: str) -> bool:
    with self._lock:
      self._generations.pop(name, None)
      return self.objects.pop(name, None) is not None

  def get(self, name: str) -> tuple[bytes, dict] | None:
    with self._lock:
      return (self.objects[name], self.resource(name)) if name in self.objects else None

  def resource(self, name: str) -> dict:
    data, generation = self.objects[name], str(self._generations.setdefault(name, next(self._numbers)))
    return {
      "kind": "storage#object",
      "name": name,
      "bucket": BUCKET,
      "id": f"{BUCKET}/{name}/{generation}",
      "generation": generation,
      "metageneration": "1",
      "size": str(len(data)),
      "updated": "2026-01-01T00:00:00.000Z",
      "timeCreated": "2026-01-01T00:00:00.000Z",
      "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
      "etag": generation,
      "crc32c": base64.b64encode(google_crc32c.Checksum(data).digest()).decode(),
    }

  def listing(self, query: dict[str, str]) -> dict:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    start = max(query.get("startOffset", ""), query.get("pageToken", ""))
    end, limit = query.get("endOffset", ""), int(query.get("maxResults", 1000))
    with self._lock:
      names = sorted(
        name for name in self.objects if name.startswith(prefix) and name >= start and (not end or name < end)
      )
      folders = {
        prefix + name[len(prefix) :].split(delimiter)[0] + delimiter
        for name in names
        if delimiter and delimiter in name[len(prefix) :]
      }
      plain = [name for name in names if not (delimiter and delimiter in name[len(prefix) :])]
      page = {
        "kind": "storage#objects",
        "items": [self.resource(name) for name in plain[:limit]],
        "prefixes": sorted(folders),
      }
      return page | ({"nextPageToken": plain[limit]} if len(plain) > limit else {})

  def begin_upload(self, name: str, only_new: bool) -> str:
    session = str(next(self._numbers))
    self._sessions[session] = (name, only_new, bytearray())
    return session

  def go_on_with_upload(self, session: str, content_range: str, data: bytes) -> tuple[int, dict | None]:
    """(bytes so far, the resource once the upload is complete)."""
    name, only_new, so_far = self._sessions[session]
    so_far += data
    total = content_range.rpartition("/")[2]
    if total in ("*", ""):
      return len(so_far), None
    return len(so_far), self.put(name, so_far, only_new=only_new)


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request, client_address) -> None:
    if not isinstance(sys.exception(), ConnectionError):  # a client that was killed, or has changed its mind
      super().handle_error(request, client_address)


@contextlib.contextmanager
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
  """A store that this process takes for Google's. TensorStore is not told: it reads its environment only once."""
  with ObjectStore() as store:
    for name, value in store.environment.items():
      monkeypatch.setenv(name, value)
    import gcsfs  # it reads some of them here
    from etils.epath import backend

    forget = lambda: (
      gcsfs.GCSFileSystem.clear_instance_cache(),
      backend._FileSystemSpecBackend._get_filesystem.cache_clear(),
    )
    forget()
    yield store
    forget()


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True  # an answer goes out in two pieces, and the second would wait for 40 ms
  store: ObjectStore

  def log_message(self, *_) -> None:
    pass

  def do_GET(self) -> None:
    path, query = self._asked()
    if path == f"/storage/v1/b/{BUCKET}":
      self._json({"kind": "storage#bucket", "name": BUCKET, "id": BUCKET, "location": "US", "storageClass": "STANDARD"})
    elif path == f"/storage/v1/b/{BUCKET}/o":
      self._json(self.store.listing(query))
    elif (match := re.fullmatch(rf"(?:/download)?/storage/v1/b/{BUCKET}/o/(.+)", path)) and (
      found := self.store.get(match[1])
    ):
      self._object(
        *found,
        media=query.get("alt") == "media" or path.startswith("/download"),
        unless=query.get("ifGenerationNotMatch"),
      )
    else:
      self._json({"error": {"code": 404, "message": "No such object"}}, 404)

  def do_POST(self) -> None:
    path, query = self._asked()
    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    if path == "/batch/storage/v1":
      self._batch(body)
    elif path == f"/upload/storage/v1/b/{BUCKET}/o" and "upload_id" in query:
      self._chunk(query["upload_id"], body)
    elif path == f"/upload/storage/v1/b/{BUCKET}/o":
      self._upload(query, body)
    else:  # compose, rewriteTo, copyTo, moveTo
      self._refuse(path)

  def do_PUT(self) -> None:
    self.do_POST()

  def do_PATCH(self) -> None:
    self._refuse(self.path)

  def do_DELETE(self) -> None:
    path, _ = self._asked()
    match = re.fullmatch(rf"/storage/v1/b/{BUCKET}/o/(.+)", path)
    done = bool(match) and self.store.delete(match[1])
    self._reply(204 if done else 404, b"")

  def _upload(self, query: dict[str, str], body: bytes) -> None:
    kind, generation = query.get("uploadType", "media"), query.get("ifGenerationMatch")
    if kind == "resumable":
      name = query.get("name") or json.loads(body)["name"]
      session = self.store.begin_upload(name, generation == "0")
      self._reply(
        200,
        b"",
        {"Location": f"{self.store.url}/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&upload_id={session}"},
      )
      return
    name = query.get("name")
    if kind == "multipart":
      boundary = re.search('boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
      about, body = (
        part.split(b"\r\n\r\n" if b"\r\n\r\n" in part else b"\n\n", 1)[1] for part in body.split(b"--" + boundary)[1:3]
      )
      name, body = name or json.loads(about)["name"], body[: -2 if body.endswith(b"\r\n") else -1]
    resource = self.store.put(name, body, generation=None if generation is None else int(generation))
    self._json(resource or {"error": {"code": 412, "message": "precondition"}}, 200 if resource else 412)

  def _chunk(self, session: str, body: bytes) -> None:
    so_far, resource = self.store.go_on_with_upload(session, self.headers.get("Content-Range", ""), body)
    if resource is None:
      self._reply(308, b"", {"Range": f"bytes=0-{so_far - 1}"})
    else:
      self._json(resource)

  def _batch(self, body: bytes) -> None:
    answers = []
    for name in re.findall(rf"DELETE /storage/v1/b/{BUCKET}/o/(\S+) HTTP", body.decode()):
      status = "204 No Content" if self.store.delete(urllib.parse.unquote(name.partition("?")[0])) else "404 Not Found"
      answers.append(f"--batch\nContent-Type: application/http\n\nHTTP/1.1 {status}\n\n")
    self._reply(200, ("".join(answers) + "--batch--").encode(), {"Content-Type": "multipart/mixed; boundary=batch"})

  def _object(self, data: bytes, resource: dict, *, media: bool, unless: str | None) -> None:
    if not media:
      self._json(resource)
      return
    if unless == resource["generation"]:
      self._reply(304, b"")
      return
    headers = {
      "x-goog-generation": resource["generation"],
      "x-goog-hash": f"crc32c={resource['crc32c']},md5={resource['md5Hash']}",
      "x-goog-stored-content-length": resource["size"],
      "ETag": resource["etag"],
      "Content-Type": "application/octet-stream",
    }
    part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
    if not part:
      self._reply(200, data, headers)
    elif int(part[1]) >= len(data):
      self._json({"error": {"code": 416, "message": "Requested range not satisfiable"}}, 416)
    else:
      first, last = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
      self._reply(206, data[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

  def _asked(self) -> tuple[str, dict[str, str]]:
    parts = urllib.parse.urlsplit(self.path)
    return urllib.parse.unquote(parts.path), dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))

  def _refuse(self, path: str) -> None:
    self.store.refused.append(f"{self.command} {path}")
    self._json({"error": {"code": 501, "message": f"an object store does not do this: {self.command} {path}"}}, 501)

  def _json(self, content: dict, status: int = 200) -> None:
    self._reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

  def _reply(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
    self.send_response(status)
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(data)
