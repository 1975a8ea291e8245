"""A server of Google Cloud Storage's JSON protocol, in memory: as much of it as gcsfs, tensorstore and orbax ask for.

    python proofs/peers/google_storage.py 9123

https://cloud.google.com/storage/docs/json_api. Objects have generations, and what is written under a condition on them
(ifGenerationMatch) is written only if it holds: what tensorstore needs of a store, and emulators leave out.
"""

import itertools
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Store:
    """Objects by name: their bytes, and a number that is new with every write."""

    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: itertools.count(1000))
    lock: Any = field(default_factory=threading.Lock)
    uploads: dict[str, tuple[str, bytearray]] = field(default_factory=dict)

    def about(self, name: str) -> dict[str, Any]:
        """An object's metadata."""
        data, generation = self.objects[name]
        bucket, _, rest = name.partition("/")
        known = {"kind": "storage#object", "bucket": bucket, "name": rest, "size": str(len(data))}
        times = {"updated": "2026-01-01T00:00:00Z", "timeCreated": "2026-01-01T00:00:00Z"}
        return known | times | {"generation": str(generation), "metageneration": "1", "etag": str(generation)}

    def put(self, name: str, data: bytes, wanted: str | None) -> dict[str, Any] | None:
        """Writes; None where the condition does not hold."""
        with self.lock:
            if wanted is not None and int(wanted) != self.objects.get(name, (b"", 0))[1]:
                return None
            self.objects[name] = data, next(self.numbers)
            return self.about(name)

    def delete(self, name: str, wanted: str | None) -> int:
        """Takes away; the status."""
        with self.lock:
            if name not in self.objects:
                return 404
            if wanted is not None and int(wanted) != self.objects[name][1]:
                return 412
            del self.objects[name]
            return 204

    def list(self, bucket: str, asked: dict[str, str]) -> dict[str, Any]:
        """Names under a prefix, on one page: those with a delimiter after it as prefixes of their own."""
        prefix, split = f"{bucket}/{asked.get('prefix', '')}", asked.get("delimiter")
        first, end = (f"{bucket}/{asked[name]}" if name in asked else None for name in ("startOffset", "endOffset"))
        items, prefixes = [], set()
        with self.lock:
            for name in sorted(self.objects):
                if not name.startswith(prefix) or (first and name < first) or (end and name >= end):
                    continue
                rest = name[len(prefix) :]
                if split and split in rest:
                    prefixes.add(name[: len(prefix) + rest.index(split) + 1].partition("/")[2])
                else:
                    items.append(self.about(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


class Handler(BaseHTTPRequestHandler):
    """A request."""

    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *args: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Nothing is said."""

    def answer(self, status: int, body: bytes | dict[str, Any] | None = None, **headers: str) -> None:
        """Sends it."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def read(self) -> tuple[str, dict[str, str], bytes]:
        """Path, query and body."""
        parts = urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return parts.path, {name: values[-1] for name, values in parse_qs(parts.query).items()}, data

    def do_GET(self) -> None:
        """Of a bucket, its names, or an object: what it is, or its bytes."""
        path, asked, _ = self.read()
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)", path):
            return self.answer(200, {"kind": "storage#bucket", "name": found[1], "id": found[1]})
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/?", path):
            return self.answer(200, self.store.list(found[1], asked))
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)", path)
        name = f"{found[1]}/{unquote(found[2])}" if found else ""
        with self.store.lock:
            data, generation = self.store.objects.get(name, (b"", 0))
            about = self.store.about(name) if generation else {}
        if not generation:
            return self.answer(404, {"error": {"code": 404, "message": f"no object {name}"}})
        if asked.get("alt") != "media":
            return self.answer(200, about)
        if asked.get("ifGenerationNotMatch") == str(generation):
            return self.answer(304)
        if asked.get("ifGenerationMatch", str(generation)) != str(generation):
            return self.answer(412)
        mark, status, whole = str(generation), 200, len(data)
        known = {"x_goog_generation": mark, "Content_Type": "application/octet-stream"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span:
            start, end = int(span[1]), min(int(span[2] or whole - 1), whole - 1)
            if start > end:
                return self.answer(416)
            data, status = data[start : end + 1], 206
            known["Content_Range"] = f"bytes {start}-{end}/{whole}"
        return self.answer(status, data, **known)

    def do_POST(self) -> None:
        """An upload, in one piece or begun; a copy; several requests at once."""
        path, asked, data = self.read()
        if path.startswith("/batch"):
            return self.batch(data)
        if path == "/resume":
            return self.resume(asked["upload_id"], data)
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)/rewriteTo/b/([^/]+)/o/(.+)", path):
            source = self.store.objects[f"{found[1]}/{unquote(found[2])}"][0]
            about = self.store.put(f"{found[3]}/{unquote(found[4])}", source, None)
            return self.answer(200, {"done": True, "resource": about, "objectSize": str(len(source))})
        found = re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path)
        assert found is not None, path
        if asked.get("uploadType") == "multipart":
            edge = b"--" + re.search(r"boundary=[\"']?([^\"';]+)", self.headers["Content-Type"])[1].encode()  # pyright: ignore
            parts = data.split(edge)
            head, data = (part.partition(b"\r\n\r\n" if b"\r\n\r\n" in part else b"\n\n")[2] for part in parts[1:3])
            asked["name"], data = json.loads(head)["name"], data.removesuffix(b"\r\n").removesuffix(b"\n")
        elif asked.get("uploadType") == "resumable":
            name = json.loads(data or b"{}").get("name") or asked["name"]
            key = str(next(self.store.numbers))
            self.store.uploads[key] = f"{found[1]}/{name}", bytearray()
            return self.answer(200, {}, Location=f"http://{self.headers['Host']}/resume?upload_id={key}")
        about = self.store.put(f"{found[1]}/{asked['name']}", data, asked.get("ifGenerationMatch"))
        return self.answer(412, {"error": {"code": 412}}) if about is None else self.answer(200, about)

    def do_PUT(self) -> None:
        """A piece of an upload that was begun."""
        _, asked, data = self.read()
        self.resume(asked["upload_id"], data)

    def resume(self, key: str, data: bytes) -> None:
        """The object is there once its last piece is: the one that says how long all of it is."""
        name, begun = self.store.uploads[key]
        begun += data
        if (self.headers.get("Content-Range") or "/0").endswith("/*"):
            return self.answer(308, Range=f"bytes=0-{len(begun) - 1}")
        del self.store.uploads[key]
        return self.answer(200, self.store.put(name, bytes(begun), None))

    def do_DELETE(self) -> None:
        """An object goes."""
        path, asked, _ = self.read()
        found = re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", path)
        assert found is not None, path
        status = self.store.delete(f"{found[1]}/{unquote(found[2])}", asked.get("ifGenerationMatch"))
        self.answer(status, None if status == 204 else {"error": {"code": status}})

    def batch(self, data: bytes) -> None:
        """Deletions, several at once."""
        edge, said = "batch_said", []
        names = re.findall(rb"DELETE \S*?/b/([^/]+)/o/(\S+) HTTP", data)
        for number, (bucket, name) in enumerate(names):
            status = self.store.delete(f"{bucket.decode()}/{unquote(name.decode())}", None)
            said.append(
                f"--{edge}\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>\r\n\r\n"
                f"HTTP/1.1 {status} OK\r\nContent-Length: 0\r\n\r\n\r\n"
            )
        text = "".join(said) + f"--{edge}--\r\n"
        self.answer(200, text.encode(), Content_Type=f"multipart/mixed; boundary={edge}")


def serve(port: int) -> ThreadingHTTPServer:
    """A server with nothing in it, ready to be asked."""
    ThreadingHTTPServer.request_queue_size = 256
    ThreadingHTTPServer.daemon_threads = True
    return ThreadingHTTPServer(("localhost", port), type("Here", (Handler,), {"store": Store()}))


if __name__ == "__main__":
    server = serve(int(sys.argv[1]))
    print("up", flush=True)
    server.serve_forever()
