"""A real HDFS behind the gateway's hdfs mounts: a NameNode and a DataNode on loopback, from the jars the runner located."""

import json
import xml.etree.ElementTree as Xml
from collections.abc import Iterator
from pathlib import Path

from harness.process import Process
from harness.stores.store import Store
from harness.tool import tool
from harness.wait import free_port
from harness.webhdfs import WebHdfs

USER = "forebay"
# Where the gateway keeps what is not published yet, at the root of its mount.
OWN_DIRECTORY = ".forebay-tmp/"
READY_DEADLINE_S = 120
PACKAGE = "org.apache.hadoop.hdfs.server"
HEAP = "-Xmx400m"
# Java 17 closed what Hadoop 3.3 looks into.
OPENED = ("java.base/java.lang", "java.base/java.util", "java.base/java.nio", "java.base/sun.nio.ch", "java.base/java.net")
LOG4J = """log4j.rootLogger=WARN,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{HH:mm:ss} %p %c{1}: %m%n
"""


class HdfsStore(Store):
    """The two servers and their directory. Permissions are off: who may do what is HDFS's own business.

    A bucket is a directory at the root; the gateway makes it.
    """

    kind = "hdfs"
    signs_host = False

    def __init__(self, directory: Path) -> None:
        self.rpc = free_port()
        self.processes: list[Process] = []
        super().__init__(directory)

    def argv(self) -> list:
        return [*self._java(), f"{PACKAGE}.namenode.NameNode"]

    def _configure(self) -> None:
        conf = self.directory / "conf"
        # The jars come without their web pages, and a NameNode does not start without them.
        for page in ("hdfs", "datanode", "static"):
            (conf / "webapps" / page / "WEB-INF").mkdir(parents=True)
            (conf / "webapps" / page / "WEB-INF" / "web.xml").write_text("<web-app/>")
        (conf / "log4j.properties").write_text(LOG4J)
        _settings(conf / "core-site.xml", {
            "fs.defaultFS": f"hdfs://localhost:{self.rpc}",
            "hadoop.tmp.dir": self.directory / "tmp",
            "hadoop.http.staticuser.user": USER,
        })  # fmt: skip
        _settings(conf / "hdfs-site.xml", {
            "dfs.replication": 1,
            "dfs.permissions.enabled": "false",
            "dfs.namenode.name.dir": f"file://{self.directory}/name",
            "dfs.datanode.data.dir": f"file://{self.directory}/data",
            "dfs.namenode.http-address": f"127.0.0.1:{self.port}",
            "dfs.datanode.address": f"localhost:{free_port()}",
            "dfs.datanode.http.address": f"localhost:{free_port()}",
            "dfs.datanode.ipc.address": f"localhost:{free_port()}",
            "dfs.namenode.safemode.extension": 0,
        })  # fmt: skip

    def _java(self) -> list:
        opened = [f"--add-opens={module}=ALL-UNNAMED" for module in OPENED]
        classpath = f"{self.directory / 'conf'}:{tool('hdfs')}/*"
        return [tool("java"), HEAP, "-XX:TieredStopAtLevel=1", *opened, "-cp", classpath]

    def java(self, name: str, *words: str) -> Process:
        """One of Hadoop's own programs, configured for this cluster."""
        return Process(name, [*self._java(), *words], self.directory / f"{name}.log")

    def start(self) -> None:
        if not (self.directory / "conf").exists():
            self._configure()
            self.java("format", f"{PACKAGE}.namenode.NameNode", "-format", "-nonInteractive").child.wait(120)
        self.process = self.java("namenode", f"{PACKAGE}.namenode.NameNode")
        self.processes = [self.process, self.java("datanode", f"{PACKAGE}.datanode.DataNode")]
        self.process.ready(self._answers, READY_DEADLINE_S)

    def _answers(self) -> bool:
        return self.client().create("/.ready", b"x", overwrite="true").status == 201

    def stop(self) -> None:
        self._go_on()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.stop()

    def pause(self) -> None:
        for process in self.processes:
            process.pause()

    def _go_on(self) -> None:
        for process in self.processes:
            process.resume()

    def client(self) -> WebHdfs:
        return WebHdfs(self.endpoint, USER)

    def root(self, purpose: str) -> str:
        """The path of a bucket."""
        return f"/{self.bucket(purpose)}"

    def make_bucket(self, name: str) -> None:
        assert self.client().mkdirs(f"/{name}").status == 200

    def mount(self, bucket: str, endpoint: str | list[str] | None = None, **extra) -> dict:
        """Several endpoints are an active NameNode and its standby."""
        endpoints = endpoint if isinstance(endpoint, list) else [endpoint or self.endpoint]
        options = {"endpoints": endpoints, "root": f"/{bucket.lstrip('/')}", "user": USER}
        return {"store": "hdfs", "options": options} | extra

    def put(self, bucket: str, key: str, data: bytes) -> None:
        assert self.client().create(f"/{bucket}/{key}", data, overwrite="true").status == 201

    def get(self, bucket: str, key: str) -> bytes | None:
        answer = self.client().open(f"/{bucket}/{key}")
        return answer.value if answer.status == 200 else None

    def delete(self, bucket: str, key: str) -> None:
        assert self.client().delete(f"/{bucket}/{key}").status == 200

    def keys(self, bucket: str) -> list[str]:
        return sorted(self._below(f"/{bucket}", ""))

    def _below(self, root: str, prefix: str) -> Iterator[str]:
        for name in self.client().names(f"{root}/{prefix}".rstrip("/")):
            if name == OWN_DIRECTORY:
                continue
            if name.endswith("/"):
                yield from self._below(root, prefix + name)
            else:
                yield prefix + name

    @staticmethod
    def error(status: int) -> tuple[dict[str, str], bytes]:
        text = {"exception": "RetriableException", "javaClassName": "org.apache.hadoop.ipc.RetriableException"}
        body = {"RemoteException": text | {"message": f"answered with {status} on purpose"}}
        return {"Content-Type": "application/json"}, json.dumps(body).encode()


def _settings(path: Path, values: dict) -> None:
    root = Xml.Element("configuration")
    for name, value in values.items():
        item = Xml.SubElement(root, "property")
        Xml.SubElement(item, "name").text = name
        Xml.SubElement(item, "value").text = str(value)
    Xml.ElementTree(root).write(path)
