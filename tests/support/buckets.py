"""Object storage on this machine: a server of moto in this process, and one bucket in it."""

from __future__ import annotations

import logging
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def object_storage(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """``s3://BUCKET`` of a server that the environment names, as users do. Skips where moto is missing."""
    server = pytest.importorskip("moto.server", reason="moto and flask are not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        bucket = f"bucket-{uuid.uuid4().hex[:8]}"
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/{bucket}", method="PUT")).close()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "some", "AWS_SECRET_ACCESS_KEY": "one",
            "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        for name in ("AWS_ENDPOINT", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        yield f"s3://{bucket}"
    finally:
        running.stop()
