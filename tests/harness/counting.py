"""A proxy in front of a store that writes down every request it passes on."""

import http.client
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    range: str | None


class CountingProxy:
    """Passes the Host header through, so that signatures made for the proxy's address hold at the store."""

    def __init__(self, store: str) -> None:
        self.seen: list[Seen] = []
        upstream = urlsplit(store).netloc
        seen = self.seen

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                seen.append(Seen(self.command, self.path, self.headers.get("Range")))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                connection = http.client.HTTPConnection(upstream, timeout=60)
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                content = answer.read()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                if answer.getheader("Transfer-Encoding"):
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                connection.close()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

            def log_message(self, *arguments) -> None:
                """Quiet: `seen` is the log."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def gets(self, key: str) -> list[Seen]:
        return [seen for seen in list(self.seen) if seen.method == "GET" and urlsplit(seen.path).path.endswith(f"/{key}")]

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
