"""A small Hugging Face Hub on this machine: repositories, commits, LFS, downloads, and every way to fail.

    python tests/support/fake_hub.py --fail commit=503
    HF_ENDPOINT=http://127.0.0.1:PORT HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_good python train_flax.py ...

It speaks what huggingface_hub 2.4 asks for when it uploads and downloads a model. Users and their tokens are
fixed: `me` has hf_good and sesame-2f9c7d1e, which may write, and hf_read, which may not; `other` and the
organisation `club` exist.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKENS = {"hf_good": True, "sesame-2f9c7d1e": True, "hf_read": False}  # both of `me`; whether they may write
NAMESPACES = ("me", "other", "club")

# What a request is called in `fail`, by the beginning or end of its path.
STEPS = ("create", "info", "auth-check", "validate-yaml", "preupload", "lfs", "put", "commit", "resolve")


class Repository:
    """Files by name, each with whether it is kept by LFS, and the messages of the commits."""

    def __init__(self, *, private):
        self.private, self.files, self.commits = private, {}, ["initial commit"]

    @property
    def sha(self):
        return hashlib.sha1(repr((len(self.commits), sorted(self.files))).encode()).hexdigest()


class FakeHub:
    """The server; `fail` says for each step what happens instead of an answer.

    A status, a status with words, "reset", "hang", "slow", or a list of these, one for each time.
    """

    def __init__(self, port=0):
        self.repositories, self.blobs, self.fail, self.seen = {}, {}, {}, []
        self.lock, self.closing = threading.Lock(), threading.Event()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, repo_id, *, private=False):
        self.repositories[repo_id] = Repository(private=private)
        return self.repositories[repo_id]

    def failure(self, step):
        with self.lock:
            wrong = self.fail.get(step)
            return (wrong.pop(0) if wrong else None) if isinstance(wrong, list) else wrong


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format, *arguments):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def handle(self):
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _answer(self):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        length = int(self.headers.get("Content-Length") or 0)
        step = self._step(path)
        with self.hub.lock:
            self.hub.seen.append((step, self.headers.get("Authorization")))
        wrong = self.hub.failure(step)
        if wrong == "reset":  # in the middle of what is being sent
            self.rfile.read(length // 2)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        body = self._body(length)
        if wrong == "hang":
            self.hub.closing.wait()
            self.close_connection = True
            return
        if wrong == "slow":
            time.sleep(1.0)
        elif wrong is not None:
            status, words = wrong if isinstance(wrong, tuple) else (wrong, "")
            self._send(status, {"error": words or f"told to answer {status}"})
            return
        method = getattr(self, f"_{step.replace('-', '_')}", None)
        if method is None:
            self._send(404, {"error": f"nothing at {path}"})
            return
        method(path, body)

    def _body(self, length):
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    @staticmethod
    def _step(path):
        if path == "/api/repos/create":
            return "create"
        if path == "/api/validate-yaml":
            return "validate-yaml"
        for part in ("preupload", "commit", "auth-check"):
            if f"/{part}/" in f"{path}/":
                return part
        if path.endswith("/info/lfs/objects/batch"):
            return "lfs"
        if path.startswith("/put/"):
            return "put"
        return "resolve" if "/resolve/" in path else "info"

    def _send(self, status, value=None, *, content=None, headers=()):
        content = json.dumps(value).encode() if content is None else content
        self.send_response(status)
        for name, text in headers:
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status, code, words):
        self._send(status, {"error": words}, headers=[("X-Error-Code", code), ("X-Error-Message", words)])

    def _may_write(self):
        """None for an unknown token, else whether it may write."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return TOKENS.get(token)

    def _allowed(self, owner):
        """Whether the request may write to an owner's repositories; refuses it if not."""
        write = self._may_write()
        if write is None:
            self._refuse(401, "InvalidToken", "Invalid credentials in Authorization header")
        elif owner not in NAMESPACES:
            self._refuse(404, "NamespaceNotFound", "Namespace not found")
        elif not write or owner not in ("me", "club"):
            self._refuse(403, "Forbidden", f"You don't have the rights to write to {owner}")
        else:
            return True
        return False

    def _named(self, path):
        """The repository that a path names, or None and an answer that there is none."""
        owner, _, rest = path.removeprefix("/api/models/").lstrip("/").partition("/")
        name = rest.partition("/")[0].removesuffix(".git")
        found = self.hub.repositories.get(f"{owner}/{name}")
        if found is None or (found.private and (owner != "me" or self._may_write() is None)):
            self._refuse(404, "RepoNotFound", "Repository not found")
            return None
        return found

    def _create(self, path, body):
        asked = json.loads(body)
        owner = asked.get("organization") or "me"
        repo_id = f"{owner}/{asked['name']}"
        if not self._allowed(owner):
            return
        answer = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        if repo_id in self.hub.repositories:
            self._send(409, answer | {"error": "You already created this model repo"})
            return
        self.hub.add(repo_id, private=asked.get("visibility") == "private")
        self._send(200, answer)

    def _info(self, path, body):
        if path == "/api/whoami-v2":
            known = self._may_write() is not None
            self._send(200 if known else 401, {"name": "me", "type": "user"} if known else {"error": "?"})
            return
        if (found := self._named(path)) is None:
            return
        files = [{"rfilename": name} for name in found.files]
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": _git_oid(data)}
                for name, (data, _) in found.files.items()
            ]
            self._send(200, tree)
            return
        name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        self._send(200, {"id": name, "sha": found.sha, "private": found.private, "siblings": files})

    def _auth_check(self, path, body):
        if self._named(path) is None or not self._allowed(path.split("/")[3]):
            return
        self._send(200, {})

    def _validate_yaml(self, path, body):
        front = json.loads(body)["content"].split("---\n")[1]
        fields = yaml.safe_load(front)
        base = fields.get("base_model")
        wrong = base is not None and (base.count("/") != 1 or base.startswith((".", "/")))
        errors = [{"message": '"base_model" with a path is not valid'}] if wrong else []
        self._send(400 if wrong else 200, {"errors": errors, "warnings": []})

    def _preupload(self, path, body):
        if (found := self._named(path)) is None:
            return
        answer = []
        for file in json.loads(body)["files"]:
            large = file["path"].endswith((".bin", ".safetensors", ".png", ".jpeg"))
            data, _ = found.files.get(file["path"], (None, None))
            oid = None
            if data is not None:
                oid = hashlib.sha256(data).hexdigest() if large else _git_oid(data)
            answer.append(
                {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
                | {"oid": oid}
            )
        self._send(200, {"files": answer})

    def _lfs(self, path, body):
        if self._named(path) is None:
            return
        wrong = self.hub.failure("quota")
        objects = []
        for each in json.loads(body)["objects"]:
            if wrong:
                error = {"code": 403, "message": "You have exceeded your storage limit"}
                objects.append(each | {"error": error})
            elif each["oid"] in self.hub.blobs:
                objects.append(each)
            else:
                action = {"href": f"{self.hub.url}/put/{each['oid']}?X-Amz-Signature=sesame", "header": {}}
                objects.append(each | {"actions": {"upload": action}})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _put(self, path, body):
        oid = path.removeprefix("/put/")
        if hashlib.sha256(body).hexdigest() != oid:
            self._send(400, {"error": "other bytes than promised"})
            return
        self.hub.blobs[oid] = body
        self._send(200, {})

    def _commit(self, path, body):
        if (found := self._named(path)) is None or not self._allowed(path.split("/")[3]):
            return
        lines = [json.loads(line) for line in body.splitlines()]
        with self.hub.lock:
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    found.files[value["path"]] = (base64.b64decode(value["content"]), False)
                elif line["key"] == "lfsFile":
                    found.files[value["path"]] = (self.hub.blobs[value["oid"]], True)
                elif line["key"] == "deletedFile":
                    del found.files[value["path"]]
            found.commits.append(lines[0]["value"]["summary"])
            sha, page = found.sha, path.removeprefix("/api/models").partition("/commit/")[0]
        self._send(
            200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}{page}/commit/{sha}"}
        )

    def _resolve(self, path, body):
        if (found := self._named(path)) is None:
            return
        name = path.partition("/resolve/")[2].partition("/")[2]
        if name not in found.files:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        data, large = found.files[name]
        tag = hashlib.sha256(data).hexdigest() if large else _git_oid(data)
        headers = [("X-Repo-Commit", found.sha), ("ETag", f'"{tag}"')]
        headers += [("X-Linked-ETag", f'"{tag}"'), ("X-Linked-Size", str(len(data)))] if large else []
        self._send(200, content=data, headers=headers)


def _git_oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fail", action="append", default=[], metavar="STEP=STATUS|reset|hang|slow")
    options = parser.parse_args()
    hub = FakeHub(options.port)
    for each in options.fail:
        step, _, wrong = each.partition("=")
        hub.fail[step] = int(wrong) if wrong.isdigit() else wrong
    print(f"export HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_good", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1.0)
            for name, repository in hub.repositories.items():
                line = f"{name}: {repository.commits} {sorted(repository.files)}"
                if hub.seen and line != getattr(main, "said", None):
                    main.said = line
                    print(line, flush=True)


if __name__ == "__main__":
    main()
