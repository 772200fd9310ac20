"""A stand-in of the Hugging Face Hub on the loopback: the endpoints of an upload and of a download, kept in memory."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

TOKEN = "hf_secretsecretsecretsecretsecretsecr"
COMMIT = "0" * 40


class HubStandIn(ThreadingHTTPServer):
    """Repositories by name, and a log of requests.

    `failures` are (method, pattern of the path, status) of answers to give once each, in place of the right one; a status of 0
    closes the connection in the middle of the body.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.objects, self.requests, self.failures = {}, {}, [], []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_):
        """Say nothing of connections that a test breaks."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self):
        hub, path = self.server, unquote(urlparse(self.path).path)
        hub.requests.append((self.command, path))
        for failure in hub.failures:
            method, pattern, status = failure
            if method == self.command and re.search(pattern, path):
                hub.failures.remove(failure)
                self.rfile.read(1000 if status == 0 else int(self.headers.get("Content-Length", 0)))
                self.close_connection = True
                return None if status == 0 else self.answer({"error": "no"}, status)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        needs_token = not path.startswith(("/objects/", "/api/validate-yaml"))
        if needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid credentials"}, 401)
        for pattern, serve in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return serve(self, body, *found.groups())
        return self.answer({"error": f"no route for {self.command} {path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one  # noqa: N815

    def whoami(self, body):
        self.answer({"name": "me", "type": "user", "orgs": []})

    def create(self, body):
        fields = json.loads(body)
        name = f"{fields.get('organization') or 'me'}/{fields['name']}"
        known = name in self.server.repos
        self.server.repos.setdefault(
            name, {"private": fields.get("visibility") == "private", "branches": {"main": {}}, "commits": 0}
        )
        self.answer({"url": f"{self.server.endpoint}/{name}", "name": name, "id": name}, 409 if known else 200)

    def branch(self, body, repo, name):
        branches = self.server.repos[repo]["branches"]
        known = name in branches
        branches.setdefault(name, {})
        self.answer({}, 409 if known else 200)

    def validate(self, body):
        self.answer({"errors": [], "warnings": []})

    def preupload(self, body, repo, branch):
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".png")) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self.answer({"files": files})

    def batch(self, body, repo):
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.server.endpoint}/objects/{wanted['oid']}"}}}
            for wanted in json.loads(body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def put(self, body, oid):
        right = hashlib.sha256(body).hexdigest() == oid
        if right:
            self.server.objects[oid] = body
        self.answer(b"", 200 if right else 400)

    def commit(self, body, repo, branch):
        kept = self.server.repos[repo]
        files = kept["branches"][branch]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        kept["commits"] += 1
        url = f"{self.server.endpoint}/{repo}/commit/{COMMIT}"
        self.answer({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})

    def info(self, body, repo, branch=None):
        if repo not in self.server.repos:
            return self.answer({"error": "not found"}, 404, X_Error_Code="RepoNotFound")
        kept = self.server.repos[repo]
        names = kept["branches"].get(branch, kept["branches"]["main"])  # a commit's hash is main's
        siblings = [{"rfilename": name} for name in names]
        return self.answer({"id": repo, "sha": COMMIT, "private": kept["private"], "siblings": siblings, "tags": []})

    def tree(self, body, repo):
        self.answer(
            [
                {"type": "file", "path": name, "oid": "", "size": 0}
                for name in self.server.repos[repo]["branches"]["main"]
            ]
        )

    def resolve(self, body, repo, name):
        content = self.server.repos[repo]["branches"]["main"].get(name)
        if content is None:
            return self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.answer(content, ETag=etag, X_Repo_Commit=COMMIT, Accept_Ranges="bytes")


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"POST /api/models/{REPO}/branch/([\w.-]+)", Handler.branch),
    (rf"POST /api/models/{REPO}/preupload/([\w.-]+)", Handler.preupload),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /objects/(\w+)", Handler.put),
    (rf"POST /api/models/{REPO}/commit/([\w.-]+)", Handler.commit),
    (rf"GET /api/models/{REPO}(?:/revision/([\w.-]+))?", Handler.info),
    (rf"GET /api/models/{REPO}/tree/.*", Handler.tree),
    (rf"(?:GET|HEAD) /{REPO}/resolve/[\w.-]+/(.+)", Handler.resolve),
]
