"""A hub of our own: the answers that the hub's client asks for, over real HTTP."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tests.artifacts.web_server import Reply, WebServer, web_server


@dataclass
class Repository:
    """Commits in order; branches and tags point to them."""

    name: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files.items())}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[branch] = sha
        return sha

    @property
    def head(self) -> dict[str, bytes]:
        return dict(self.commits[self.refs["main"]]) if "main" in self.refs else {}


@dataclass
class Hub:
    server: WebServer
    repositories: dict[str, Repository] = field(default_factory=dict)
    lfs_suffix: str = ".safetensors"

    @property
    def endpoint(self) -> str:
        return self.server.origin

    def repository(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository(name))

    def answer(self, target: str, headers: dict[str, str]) -> Reply | None:
        path = unquote(urlsplit(target).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(match[1], match[2] or "main", headers)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(match[1], match[2], match[3], headers)
        return None

    def _commit(self, name: str, revision: str, headers: dict[str, str]) -> str | Reply:
        repository = self.repositories.get(name)
        token = headers.get("Authorization", headers.get("authorization"))
        if repository is None:
            return Reply(404, {"X-Error-Code": "RepoNotFound"})
        if repository.token is not None and token != f"Bearer {repository.token}":
            return Reply(403, {"X-Error-Code": "GatedRepo"})
        sha = revision if revision in repository.commits else repository.refs.get(revision)
        return sha or Reply(404, {"X-Error-Code": "RevisionNotFound"})

    def _info(self, name: str, revision: str, headers: dict[str, str]) -> Reply:
        sha = self._commit(name, revision, headers)
        if isinstance(sha, Reply):
            return sha
        siblings = []
        for path, data in self.repositories[name].commits[sha].items():
            entry: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": git_id(data)}
            if path.endswith(self.lfs_suffix):
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        body = json.dumps({"id": name, "sha": sha, "siblings": siblings, "tags": [], "private": False})
        return Reply(200, {"Content-Type": "application/json"}, body.encode())

    def _file(self, name: str, revision: str, path: str, headers: dict[str, str]) -> Reply:
        sha = self._commit(name, revision, headers)
        if isinstance(sha, Reply):
            return sha
        data = self.repositories[name].commits[sha].get(path)
        if data is None:
            return Reply(404, {"X-Error-Code": "EntryNotFound"})
        lfs = path.endswith(self.lfs_suffix)
        etag = hashlib.sha256(data).hexdigest() if lfs else git_id(data)
        told = {"ETag": f'"{etag}"', "X-Repo-Commit": sha}
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
        if wanted:
            start = int(wanted[1])
            told["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return Reply(206, told, data[start:])
        return Reply(200, told, data)


def git_id(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    with web_server(None, "127.0.0.1") as server:
        hub = Hub(server)
        server.special = hub.answer
        yield hub
