"""A real Prometheus that scrapes one gateway every second."""

from pathlib import Path

import requests
import yaml

from harness.process import Process
from harness.tool import tool
from harness.wait import free_port, wait_for


class Prometheus:
    def __init__(self, directory: Path, target: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "scrape_configs": [{"job_name": "forebay", "static_configs": [{"targets": [target]}]}],
        }
        directory.mkdir(parents=True)
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        argv = [
            tool("prometheus"), f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address={self.url.removeprefix('http://')}", "--log.level=warn",
        ]  # fmt: skip
        self.process = Process("prometheus", argv, directory / "prometheus.log")
        self.process.ready(lambda: requests.get(f"{self.url}/-/ready", timeout=2).status_code == 200, 30)

    def query(self, expression: str) -> list[dict]:
        """The series of an instant query; Prometheus' own message when it does not parse or fails."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        return answer["data"]["result"]

    def wait_for_scrapes(self, count: int) -> None:
        """Until the target is up and `count` samples of it are stored: a rate needs two."""

        def enough() -> bool:
            result = self.query('count_over_time(up{job="forebay"}[1m])')
            return bool(result) and float(result[0]["value"][1]) >= count

        wait_for(enough, 30, f"{count} scrapes")
        assert self.query('up{job="forebay"}')[0]["value"][1] == "1"

    def stop(self) -> None:
        self.process.stop()
