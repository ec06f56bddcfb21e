"""SIGTERM: not ready, finish what is in flight, flush, unmount, exit 0 within the deadline."""

import contextlib
import os
import time

import pytest
import requests
from harness.gateway import SHUTDOWN_DEADLINE_S
from harness.wait import wait_for

MIB = 1 << 20


def test_a_download_in_flight_is_finished(own):
    own.start()
    body = os.urandom(64 * MIB)
    own.s3().put_object(Bucket="disk", Key="big", Body=body)
    stream = own.s3().get_object(Bucket="disk", Key="big")["Body"]
    first = stream.read(MIB)
    own.process.terminate()
    assert first + stream.read() == body
    own.stop()


def test_it_stops_being_ready_and_takes_no_new_connections(own):
    own.start()
    own.s3().put_object(Bucket="disk", Key="big", Body=bytes(64 * MIB))
    stream = own.s3().get_object(Bucket="disk", Key="big")["Body"]
    stream.read(MIB)
    own.process.terminate()

    def not_ready():
        try:
            return requests.get(f"{own.url('admin')}/readyz", timeout=2).status_code == 503
        except requests.ConnectionError:
            return True

    wait_for(not_ready, 5, "the gateway to stop being ready")
    stream.read()
    own.stop()


def test_a_client_that_never_finishes_does_not_hold_it_up(own):
    own.config["gateway"]["shutdown"] = {"deadline": "2s"}
    own.rewrite().start()
    own.s3().put_object(Bucket="disk", Key="big", Body=bytes(64 * MIB))
    stream = own.s3().get_object(Bucket="disk", Key="big")["Body"]
    stream.read(MIB)
    started = time.monotonic()
    own.stop()
    assert time.monotonic() - started < 8
    stream.close()


def test_an_idle_gateway_stops_at_once(own):
    own.start()
    started = time.monotonic()
    own.stop()
    assert time.monotonic() - started < SHUTDOWN_DEADLINE_S / 4


def test_a_file_open_through_fuse_is_flushed(own):
    own.start()
    if not own.mountpoint:
        pytest.skip("machine: no /dev/fuse, or not root")
    paths = [own.mountpoint / mount / "f" for mount in ("disk", "bucket")]
    targets = [path.open("wb", buffering=0) for path in paths]
    for target in targets:
        target.write(b"acknowledged")
        os.fsync(target.fileno())
    own.stop()
    for target in targets:
        with contextlib.suppress(OSError):  # the mount is gone; what was fsynced is not
            target.close()
    own.start()
    assert [path.read_bytes() for path in paths] == [b"acknowledged"] * 2
