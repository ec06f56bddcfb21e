import os, time, subprocess
from bench.test_hdfs import cluster, shell, timed, ours_up, SHELL
import requests

def test_w(cluster):
    gateway, hadoop, root, directory = cluster
    began = time.monotonic()
    assert hadoop.java("shell-start", SHELL, "-ls", "/").child.wait(60) == 0
    start_s = time.monotonic() - began
    d = str(directory / "gib")
    def direct(n):
        where = hadoop.client().step("PUT", f"{root}/{n}", "CREATE", overwrite="true").headers["Location"]
        subprocess.run(["curl", "-sSf", "-X", "PUT", "-T", d, "-o", "/dev/null", where], check=True)
    for i in range(4):
        c = gateway.process.cpu_seconds()
        a = timed(lambda: ours_up(gateway, directory, f"w{i}"))
        c = gateway.process.cpu_seconds() - c
        b = shell(hadoop, start_s, "-put", "-f", d, f"hdfs://localhost:{hadoop.rpc}{root}/theirs")
        w = shell(hadoop, start_s, "-put", "-f", d, f"webhdfs://127.0.0.1:{hadoop.port}{root}/theirs")
        e = timed(lambda: direct(f"direct{i}"))
        print(f"\nround {i} ours {a['mib_s']:.0f} cpu {c:.2f} hdfs {b['mib_s']:.0f} webhdfs {w['mib_s']:.0f} curl-direct {e['mib_s']:.0f} load {os.getloadavg()[0]:.1f}", flush=True)
    print(open(gateway.log).read()[-3000:] if hasattr(gateway, 'log') else '')
    print(requests.get(gateway.url('admin') + '/metrics').text.count('x'))
    for l in requests.get(gateway.url('admin') + '/metrics').text.splitlines():
        if 'lake' in l and ('backend_requests' in l or 'seconds_sum' in l or 'limit' in l): print(l)
