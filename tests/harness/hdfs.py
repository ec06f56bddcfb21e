"""A real HDFS behind the gateway's hdfs mounts: a NameNode and a DataNode on loopback, from the jars the runner located."""

import itertools
import xml.etree.ElementTree as Xml
from pathlib import Path

from harness.process import Process
from harness.tool import tool
from harness.wait import free_port
from harness.webhdfs import WebHdfs

USER = "forebay"
PACKAGE = "org.apache.hadoop.hdfs.server"
HEAP = "-Xmx400m"
# Java 17 closed what Hadoop 3.3 looks into.
OPENED = ("java.base/java.lang", "java.base/java.util", "java.base/java.nio", "java.base/sun.nio.ch", "java.base/java.net")
LOG4J = """log4j.rootLogger=WARN,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{HH:mm:ss} %p %c{1}: %m%n
"""


class HdfsStore:
    """The two servers and their directory. Permissions are off: who may do what is HDFS's own business."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.numbers = itertools.count(1)
        self.rpc, self.http = free_port(), free_port()
        self.endpoint = f"http://localhost:{self.http}"
        self.processes: list[Process] = []
        self._configure()
        self._java("format", f"{PACKAGE}.namenode.NameNode", "-format", "-nonInteractive").child.wait(120)
        self.start()

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
            "dfs.namenode.http-address": f"localhost:{self.http}",
            "dfs.datanode.address": f"localhost:{free_port()}",
            "dfs.datanode.http.address": f"localhost:{free_port()}",
            "dfs.datanode.ipc.address": f"localhost:{free_port()}",
            "dfs.namenode.safemode.extension": 0,
        })  # fmt: skip

    def _java(self, name: str, *words: str) -> Process:
        opened = [f"--add-opens={module}=ALL-UNNAMED" for module in OPENED]
        classpath = f"{self.directory / 'conf'}:{tool('hdfs')}/*"
        argv = [tool("java"), HEAP, "-XX:TieredStopAtLevel=1", *opened, "-cp", classpath, *words]
        return Process(name, argv, self.directory / f"{name}.log")

    def start(self) -> None:
        """Also after `stop`: same ports, same data."""
        self.processes = [
            self._java("namenode", f"{PACKAGE}.namenode.NameNode"),
            self._java("datanode", f"{PACKAGE}.datanode.DataNode"),
        ]
        self.processes[0].ready(self._takes_files, 120)

    def _takes_files(self) -> bool:
        return self.client().create("/.ready", b"x", overwrite="true").status == 201

    def client(self) -> WebHdfs:
        return WebHdfs(self.endpoint, USER)

    def java(self, name: str, *words: str) -> Process:
        """One of Hadoop's own programs, configured for this cluster."""
        return self._java(name, *words)

    def root(self, purpose: str) -> str:
        """A directory of its own for each caller; its path. The gateway makes it."""
        return f"/{purpose}-{next(self.numbers)}"

    def mount(self, root: str, *endpoints: str, **extra) -> dict:
        """The entry of mounts.yaml that serves `root`; `endpoints` when proxies stand between."""
        options = {"endpoints": list(endpoints) or [self.endpoint], "root": root, "user": USER}
        return {"store": "hdfs", "options": options} | extra

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.stop()


def _settings(path: Path, values: dict) -> None:
    root = Xml.Element("configuration")
    for name, value in values.items():
        item = Xml.SubElement(root, "property")
        Xml.SubElement(item, "name").text = name
        Xml.SubElement(item, "value").text = str(value)
    Xml.ElementTree(root).write(path)
