"""A stand-in for the Hugging Face hub's API: creates repositories and takes commits, large files by LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_secretsecretsecretsecretsecret"


class HubServer(ThreadingHTTPServer):
    """Repositories in memory. `answers` maps "METHOD part-of-path" to statuses that are given first, one each."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.blobs, self.answers = {}, {}, {}
        self.requests, self.uploads = [], []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.refused():
            return
        if self.path.startswith("/api/whoami"):
            self.answer({"name": "me", "type": "user", "auth": {}, "orgs": []})
            return
        match = re.match(r"/api/(models|datasets)/([^/]+/[^/?]+)(?:\?|$|/revision/)", self.path)
        repo = self.server.repos.get(f"{match[1]}/{match[2]}") if match else None
        if repo is None:
            self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        self.answer({"id": match[2], "private": repo["private"], "siblings": [], "sha": "0" * 40, "tags": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.refused():
            return
        if self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            values = json.loads(body)
            private = values.get("visibility") == "private" or bool(values.get("private"))
            kind = f"{values.get('type') or 'model'}s"
            name = values["name"] if not values.get("organization") else f"{values['organization']}/{values['name']}"
            self.server.repos[f"{kind}/{name}"] = {"private": private, "files": {}, "commits": []}
            self.answer({"url": f"{self.server.url}/{name}", "name": name, "id": "1"})
        elif match := re.match(r"/api/(models|datasets)/([^/]+/[^/]+)/preupload/", self.path):
            files = json.loads(body)["files"]
            large = (".safetensors", ".parquet")
            modes = [{"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
                      "shouldIgnore": False, "oid": None} for file in files]  # fmt: skip
            self.answer({"files": modes})
        elif match := re.match(r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.path):
            objects = []
            for item in json.loads(body)["objects"]:
                found = {"oid": item["oid"], "size": item["size"]}
                if item["oid"] not in self.server.blobs:
                    found["actions"] = {"upload": {"href": f"{self.server.url}/blob/{item['oid']}", "header": {}}}
                objects.append(found)
            self.answer({"transfer": "basic", "objects": objects})
        elif match := re.match(r"/api/(models|datasets)/([^/]+/[^/]+)/commit/", self.path):
            self.commit(self.server.repos[f"{match[1]}/{match[2]}"], map(json.loads, body.splitlines()))
            url = f"{self.server.url}/{match[2]}/commit/1"
            self.answer({"commitUrl": url, "commitOid": "1" * 40, "pullRequestUrl": None})
        else:
            self.answer({"error": f"unknown: {self.path}"}, 404)

    def commit(self, repo, lines):
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repo["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo["files"][value["path"]] = self.server.blobs[value["oid"]]
            elif line["key"] == "header":
                repo["commits"].append(value["summary"])

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.refused():
            return
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        self.server.uploads.append(oid)
        self.answer({})

    def refused(self):
        """Answers with a status that the test asked for."""
        self.server.requests.append((f"{self.command} {self.path}", self.headers.get("Authorization")))
        for part, statuses in self.server.answers.items():
            if part in f"{self.command} {self.path}" and statuses:
                told = f"no, {self.headers.get('Authorization')}"  # a server may repeat what it was sent
                self.answer({"error": told}, statuses.pop(0), {"X-Error-Message": told})
                return True
        return False

    def answer(self, value, status=200, headers=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(text))
        self.end_headers()
        self.wfile.write(body)
