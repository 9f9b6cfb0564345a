"""A bucket on loopback: the part of Google's storage API that libraries use.

gcsfs and TensorStore, which read and write gs:// paths, are sent here by their
own environment variables.
"""

import contextlib
import email
import http.server
import json
import threading
import urllib.parse


@contextlib.contextmanager
def serve():
  """Serves buckets of any name; yields its objects and the environment.

  Objects are a dict from (bucket, name) to (bytes, generation).
  """
  objects = {}
  handler = type("Handler", (_Handler,), {"objects": objects, "halves": {}})
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  # Clients hang up on answers that they no longer want, or die.
  server.handle_error = lambda *_: None
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  address = f"http://127.0.0.1:{server.server_port}"
  try:
    yield (
      objects,
      {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
      },
    )
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


def describe(bucket, name, content, generation):
  """What the service says of an object."""
  return {
    "kind": "storage#object",
    "name": name,
    "bucket": bucket,
    "size": str(len(content)),
    "generation": str(generation),
    "updated": "2026-01-01T00:00:00.000Z",
    "timeCreated": "2026-01-01T00:00:00.000Z",
  }


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  objects: dict
  halves: dict
  lock = threading.Lock()
  generation = 0

  # A request must not wait 40 ms for the answer's second packet.
  disable_nagle_algorithm = True

  def log_message(self, *_):
    pass

  def do_GET(self):
    parts, query = self.split()
    bucket, name = parts
    if name is None:
      return self.list(bucket, query)
    found = self.objects.get((bucket, name))
    if not found:
      return self.answer(404, {"error": {"code": 404, "message": "Not Found"}})
    content, generation = found
    if query.get("alt") != "media" and "/download/" not in self.path:
      return self.answer(200, describe(bucket, name, *found))
    if query.get("ifGenerationNotMatch") == str(generation):
      return self.answer(304, b"")
    span, status = self.headers.get("Range"), 200
    headers = {"x-goog-generation": str(generation)}
    if span:
      low, _, high = span.removeprefix("bytes=").partition("-")
      end = min(int(high) if high else len(content) - 1, len(content) - 1)
      if int(low) > end:
        return self.answer(416, b"")
      headers["Content-Range"] = f"bytes {low}-{end}/{len(content)}"
      content, status = content[int(low) : end + 1], 206
    return self.answer(status, content, headers)

  def list(self, bucket, query):
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    items, prefixes = [], set()
    with self.lock:
      there_are = sorted(self.objects.items())
    for (there, name), found in there_are:
      if there != bucket or not name.startswith(prefix):
        continue
      rest = name[len(prefix) :]
      if delimiter and delimiter in rest:
        prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
      elif name >= query.get("startOffset", ""):
        items.append(describe(bucket, name, *found))
    self.answer(200, {"items": items, "prefixes": sorted(prefixes)})

  def do_POST(self):
    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    (bucket, name), query = self.split()
    if "upload_id" in query:
      return self.go_on(bucket, body, query)
    if query.get("uploadType") == "resumable":
      name = query.get("name") or json.loads(body)["name"]
      where = f"http://{self.headers['Host']}{self.path.split('?')[0]}"
      where += "?" + urllib.parse.urlencode({"upload_id": name})
      self.halves.pop((bucket, name), None)
      return self.answer(200, {}, {"Location": where})
    if "/upload/" in self.path:
      if query.get("uploadType") == "multipart":
        kind = self.headers["Content-Type"]
        parts = email.message_from_bytes(
          f"Content-Type: {kind}\r\n\r\n".encode() + body
        ).get_payload()
        name = json.loads(parts[0].get_payload(decode=True))["name"]
        edge = kind.split("boundary=")[1].strip("\"'").encode()
        body = body.split(b"--" + edge)[2].split(b"\n\n", 1)[-1]
        body = body.split(b"\r\n\r\n", 1)[-1].removesuffix(b"\r\n")
        body = body.removesuffix(b"\n")
      return self.put(bucket, query.get("name", name), body, query)
    for word in ("/rewriteTo/b/", "/copyTo/b/"):
      if word in name:
        source, _, target = name.partition(word)
        there, _, copy = target.partition("/o/")
        content = self.objects[bucket, source][0]
        return self.put(
          there,
          copy,
          content,
          {},
          lambda x: {"done": True, "resource": x, **x},
        )
    return self.answer(200, {})

  do_PUT = do_POST

  def go_on(self, bucket, body, query):
    """Takes a part of an upload, the last of which says how long it is."""
    key = bucket, query["upload_id"]
    total = self.headers.get("Content-Range", "").partition("/")[2]
    self.halves[key] = self.halves.get(key, b"") + body
    if total == "*":
      end = max(len(self.halves[key]) - 1, 0)
      return self.answer(308, b"", {"Range": f"bytes=0-{end}"})
    return self.put(*key, self.halves.pop(key), {})

  def put(self, bucket, name, content, query, shape=lambda x: x):
    with self.lock:
      old = self.objects.get((bucket, name), (b"", 0))[1]
      stale = query.get("ifGenerationMatch", str(old)) != str(old)
      if not stale:
        _Handler.generation += 1
        found = self.objects[bucket, name] = content, _Handler.generation
    if stale:
      return self.answer(412, {"error": {"code": 412}})
    return self.answer(200, shape(describe(bucket, name, *found)))

  def do_DELETE(self):
    key, _ = self.split()
    with self.lock:
      found = self.objects.pop(key, None)
    self.answer(204 if found else 404, b"")

  def split(self):
    """`(bucket, name or None)` and the query."""
    url = urllib.parse.urlsplit(self.path)
    rest = url.path.partition("/b/")[2]
    bucket, _, name = rest.partition("/o")
    name = urllib.parse.unquote(name.removeprefix("/")) or None
    return (bucket, name), dict(urllib.parse.parse_qsl(url.query))

  def answer(self, status, content, headers=()):
    if isinstance(content, dict):
      content = json.dumps(content).encode()
    self.send_response(status)
    for name, value in {**dict(headers)}.items():
      self.send_header(name, value)
    if status not in (204, 304):
      self.send_header("Content-Type", "application/json")
      self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    if status not in (204, 304):
      self.wfile.write(content)
