"""Every query of every dashboard and rule, run by a real Prometheus against a gateway that has served."""

import json
import math
import re
import subprocess
import threading
from pathlib import Path

import pytest
import requests
import yaml
from harness.place import STORES
from harness.prometheus import Prometheus
from harness.tool import tool

DASHBOARDS = Path(__file__).resolve().parents[2] / "dashboards"
# Objects, and reads of each: the estimate for other sizes takes 1000 reads of one object in eight.
SAMPLED_OBJECTS, SAMPLED_READS = 300, 40
INTERVALS = re.compile(r"\$\{?__(rate_interval|interval|range)\}?")
VARIABLE = re.compile(r"\$(\w+|\{\w+(:\w+)?\})")


def panels(node):
    """Every target with an expression, however deep rows nest them."""
    for panel in node.get("panels", []):
        yield from ((panel.get("title", "?"), target["expr"]) for target in panel.get("targets", []) if "expr" in target)
        yield from panels(panel)


def dashboard_queries():
    for path in sorted(DASHBOARDS.rglob("*.json")):
        board = json.loads(path.read_text())
        yield from ((path.name, title, expression) for title, expression in panels(board))
        for variable in board.get("templating", {}).get("list", []):
            query = variable.get("query")
            text = query.get("query") if isinstance(query, dict) else query
            if variable.get("type") == "query" and (match := re.match(r"label_values\((.+), *\w+\)$", text or "")):
                yield path.name, f"${variable['name']}", match[1]


def rule_files():
    return [path for path in sorted(DASHBOARDS.rglob("*.y*ml")) if "groups" in (yaml.safe_load(path.read_text()) or {})]


def concrete(expression: str) -> str:
    """Grafana's variables as it would fill them in."""
    return VARIABLE.sub(".*", INTERVALS.sub("10s", expression))


@pytest.fixture(scope="module")
def prometheus(gateway, tmp_path_factory):
    """Traffic goes on for as long as queries are asked, so that every rate has something to show."""
    gateway.panic_actor("Mount:/scratch")
    read_often(gateway)
    gateway.s3().put_object(Bucket="bucket", Key="loaded/0", Body=b"x")
    assert gateway.cli("load", "--wait", "/bucket/loaded").returncode == 0
    assert gateway.cli("sync", "--wait", "/bucket/loaded").returncode == 0
    server = Prometheus(tmp_path_factory.mktemp("prometheus") / "server", gateway.address("admin"))
    stop = threading.Event()
    traffic = threading.Thread(target=work, args=(gateway, stop))
    traffic.start()
    try:
        server.wait_for_scrapes(4)
        yield server
    finally:
        stop.set()
        traffic.join(30)
        server.stop()


def read_often(gateway):
    s3, session = gateway.s3(), requests.Session()
    for number in range(SAMPLED_OBJECTS):
        s3.put_object(Bucket="scratch", Key=f"often/{number}", Body=b"x")
    for read in range(SAMPLED_READS * SAMPLED_OBJECTS):
        url = f"{gateway.url('webhdfs')}/webhdfs/v1/scratch/often/{read % SAMPLED_OBJECTS}"
        assert session.get(url, params={"op": "OPEN", "data": "true", "user.name": "root"}).content == b"x"


def work(gateway, stop):
    s3, hdfs = gateway.s3(), gateway.webhdfs()
    number = 0
    while not stop.wait(0.05):
        number = (number + 1) % 10
        for bucket in STORES.values():
            s3.put_object(Bucket=bucket, Key=f"traffic/{number}", Body=b"x" * 100_000)
            s3.get_object(Bucket=bucket, Key=f"traffic/{number}")["Body"].read()
            hdfs.open(f"/{bucket}/traffic/{number}")
            hdfs.status(f"/{bucket}/traffic/no such file")
            hdfs.names(f"/{bucket}/traffic")
            if gateway.mountpoint:
                (gateway.mountpoint / bucket / "traffic" / str(number)).read_bytes()


def test_there_is_a_dashboard_with_queries():
    assert len(list(dashboard_queries())) >= 5


def test_every_dashboard_query_returns_a_series(prometheus):
    silent = []
    for name, title, expression in dashboard_queries():
        values = [float(series["value"][1]) for series in prometheus.query(concrete(expression))]
        if all(map(math.isnan, values)):
            silent.append(f"{name}, {title}: {expression}")
    assert not silent, "\n".join(silent)


def test_every_rule_is_valid_and_its_query_runs(prometheus):
    for path in rule_files():
        done = subprocess.run([tool("promtool"), "check", "rules", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                prometheus.query(rule["expr"])


def test_no_alert_fires_on_a_healthy_gateway(prometheus):
    for path in rule_files():
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    assert prometheus.query(rule["expr"]) == [], rule["alert"]


def test_dashboards_name_only_declared_metrics(gateway):
    exported = set(re.findall(r'"(forebay_\w+)"', (DASHBOARDS.parent / "gateway/core/src/metrics.rs").read_text()))
    for _, title, expression in dashboard_queries():
        used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"forebay_\w+", expression)}
        assert used <= exported | {name for name in exported if name in expression}, title


def test_promtool_accepts_the_exposition(gateway):
    text = gateway.metrics().text
    done = subprocess.run([tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_metrics_that_the_readme_names_are_there(prometheus, gateway):
    section = re.search(r"^## Metrics$(.+?)^## ", (DASHBOARDS.parent / "README.md").read_text(), re.M | re.S)[1]
    promised = re.findall(r"`(forebay_\w+)\{([\w,]+)\}`", section)
    assert len(promised) >= 15
    text = gateway.metrics().text
    for name, labels in promised:
        series = re.search(rf"^{name}(_bucket)?\{{(.+)\}} ", text, re.M)
        assert series, name
        assert set(labels.split(",")) <= {pair.split("=")[0] for pair in series[2].split(",")}, series[0]
