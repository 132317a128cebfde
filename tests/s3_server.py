"""A real S3 API on this machine (moto's server), and the store as another process would use it."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import make_server


class Request(NamedTuple):
    method: str
    path: str
    range: str | None


@contextmanager
def serving() -> Iterator[list[Request]]:
    """An S3 server, known to all by the standard environment variables; gives the requests that it was sent.

    It answers one request after the other, so that a put with a condition is as atomic as it is on S3.
    """
    seen: list[Request] = []

    class Handler(MotoRequestHandler):
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            seen.append(Request(self.command, self.path, self.headers.get("Range")))

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=False, request_handler=Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    S3FileSystem.clear_instance_cache()
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
            environment.delenv(name, raising=False)
        known = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "NO_PROXY": "127.0.0.1",
        }
        for name, value in known.items():
            environment.setenv(name, value)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        yield seen
    S3FileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()
    server.server_close()


def make_bucket(test: str) -> str:
    """URI of a new bucket that is named after the test."""
    name = re.sub("[^a-z0-9]+", "-", test)[:60].strip("-")
    S3FileSystem().mkdir(name)
    return f"s3://{name}"


def elsewhere(uri: str) -> tuple[S3FileSystem, str]:
    """The store as another process has it, which knows of nothing that this one has listed, and path in it."""
    return S3FileSystem(use_listings_cache=False), uri.removeprefix("s3://")


def put_elsewhere(uri: str, content: str) -> None:
    store, path = elsewhere(uri)
    store.pipe_file(path, content.encode())


def upload(folder: Path, uri: str) -> str:
    store, path = elsewhere(uri)
    for file in folder.rglob("*"):
        if file.is_file():
            store.put_file(str(file), f"{path}/{file.relative_to(folder)}")
    return uri


def names(uri: str) -> list[str]:
    store, path = elsewhere(uri)
    return sorted(name.removeprefix(path).lstrip("/") for name in store.find(path))
