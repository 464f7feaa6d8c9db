"""A local server that speaks as much of the Hugging Face Hub's API as saving and loading a model takes.

Large files go by Git LFS, as they do in the Hub for a client without hf_xet.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Prints nothing."""

    @property
    def _path(self):
        return urllib.parse.unquote(self.path.partition("?")[0])

    @property
    def _commit(self):
        return f"{self.server.commits:040}"

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, content, status=200, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self):
        body, server, path = self._body(), self.server, self._path
        server.tokens.add(self.headers.get("Authorization"))
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization'] or 'me'}/{asked['name']}"
            exists = repository in server.repositories
            server.repositories.setdefault(repository, {})
            self._answer({"url": f"{server.address}/{repository}"}, 409 if exists else 200)
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif found := re.fullmatch("/api/models/(.+)/preupload/main", path):
            files = [
                {
                    "path": file["path"],
                    "shouldIgnore": False,
                    "uploadMode": "lfs" if file["path"].endswith(".h5") else "regular",
                }
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{server.address}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch("/api/models/(.+)/commit/main", path):
            files = server.repositories[found[1]]
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "lfsFile":
                    files[entry["value"]["path"]] = server.large[entry["value"]["oid"]]
            server.commits += 1
            self._answer({"commitUrl": f"{server.address}/{found[1]}/commit/{self._commit}", "commitOid": self._commit})
        else:
            self._answer({"error": path}, 404)

    def do_PUT(self):
        body = self._body()
        self.server.large[hashlib.sha256(body).hexdigest()] = body
        self._answer(b"")

    def do_GET(self):
        server, path = self.server, self._path
        if found := re.fullmatch("/api/models/(.+)/tree/.+", path):
            files = server.repositories[found[1]]
            self._answer([_entry(name, data) for name, data in files.items()])
        elif found := re.fullmatch("/api/models/(.+?)(/revision/.+)?", path):
            files = server.repositories.get(found[1])
            if files is None:
                self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
                return
            siblings = [{"rfilename": name} for name in files]
            self._answer({"id": found[1], "sha": self._commit, "siblings": siblings, "tags": [], "private": False})
        elif found := re.fullmatch("/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            data = server.repositories[found[1]][found[2]]
            self._answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=self._commit)
        else:
            self._answer({"error": path}, 404)

    do_HEAD = do_GET  # noqa: N815


def _entry(name, data):
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


@contextlib.contextmanager
def hub():
    """Yields the running server, with its `address`, `repositories` (files by name), `commits` and `tokens`."""
    server = http.server.ThreadingHTTPServer(("localhost", 0), _Handler)
    server.address = f"http://localhost:{server.server_port}"
    server.repositories, server.large, server.commits, server.tokens = {}, {}, 0, set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
