"""A small local server that speaks the endpoints of the Hugging Face Hub."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_test"


class Hub(ThreadingHTTPServer):
    """The state of the server.

    Attributes:
        repos: {id: {file name: content}}.
        gated: ids that need permission.
        requests: "METHOD /path" of each request.
        served: largest number of bytes of a file that one answer has; the connection then ends.
        page: if set, every answer is this HTML page with status 200.
        status: if set, every answer has this status.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.served: int | None = None
        self.page: bytes | None = None
        self.status: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo: str) -> str:
        """Returns the commit hash of a repository, which depends on its files."""
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._serve()

    def do_GET(self):
        self._serve()

    def do_POST(self):
        self._serve()

    def do_PUT(self):
        self._serve()

    def _serve(self):
        hub = self.server
        hub.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if hub.status is not None:
            self._answer(hub.status)
        elif hub.page is not None:
            self._answer(200, hub.page)
        elif "/resolve/" in self.path:
            self._resolve()
        elif self.path.startswith("/lfs/"):  # these addresses need no token
            hub.blobs[self.path.removeprefix("/lfs/")] = body
            self._answer(200)
        elif f"Bearer {TOKEN}" != self.headers.get("Authorization"):
            self._answer(401)
        else:
            self._write_api(body)

    def _resolve(self):
        hub = self.server
        repo, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if repo not in hub.repos:
            return self._answer(401, error="RepoNotFound")
        if repo in hub.gated:
            return self._answer(403, error="GatedRepo")
        commit = hub.commit(repo)
        if revision not in ("main", commit):
            return self._answer(404, error="RevisionNotFound")
        if file not in hub.repos[repo]:
            return self._answer(404, error="EntryNotFound", commit=commit)
        return self._send_file(hub.repos[repo][file], commit)

    def _send_file(self, content: bytes, commit: str):
        start = 0
        if span := self.headers.get("Range"):
            start = int(span.removeprefix("bytes=").partition("-")[0])
        rest = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(rest[: self.server.served])
            if self.server.served is not None:
                self.close_connection = True

    def _write_api(self, body: bytes):
        hub = self.server
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            known = repo in hub.repos
            hub.repos.setdefault(repo, {})
            return self._answer(409 if known else 200, {"url": f"{hub.url}/{repo}", "name": repo})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{hub.url}/lfs/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if self.path.endswith("/commit/main"):
            return self._commit(body)
        return self._answer(404)

    def _commit(self, body: bytes):
        repo = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.server.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.repos[repo][value["path"]] = self.server.blobs[value["oid"]]
        commit = self.server.commit(repo)
        url = f"{self.server.url}/{repo}/commit/{commit}"
        self._answer(200, {"success": True, "commitOid": commit, "commitUrl": url})

    def _answer(self, status: int, content=b"", *, error: str = "", commit: str = ""):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header(
            "Content-Type", "text/html" if content is self.server.page else "application/json"
        )
        for name, value in (("X-Error-Code", error), ("X-Repo-Commit", commit)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
