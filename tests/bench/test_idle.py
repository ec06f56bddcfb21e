"""What a gateway costs that nobody talks to."""

from bench.figures import verdict
from harness.gateway import Gateway, settings
from harness.tool import tool


def test_idle_memory(tmp_path, store):
    (tmp_path / "disk").mkdir()
    mounts = {
        "/disk": {"store": "fs", "options": {"root": str(tmp_path / "disk")}},
        "/scratch": {"store": "memory"},
        "/bucket": store.mount(store.bucket("idle")),
    }
    gateway = Gateway(tmp_path, settings(tmp_path, mounts), binary=tool("forebay-release")).start()
    try:
        gateway.s3().list_buckets()
        rss = gateway.process.rss_kib()
        print(f"\n-- idle: VmRSS {rss['VmRSS'] / 1024:.1f} MiB, RssAnon {rss['RssAnon'] / 1024:.1f} MiB")
        verdict("idle VmRSS in MiB", rss["VmRSS"] / 1024, 60)
    finally:
        gateway.stop()
