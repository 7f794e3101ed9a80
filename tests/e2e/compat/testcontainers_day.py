"""testcontainers for Python: servers in containers, found through published ports and waited for in several ways; what a
`with` ends is removed at once, what a process leaves behind is removed by the reaper.

`day` is a morning of tests; `leave` starts a server and ends without any clean-up."""

import os
import sys
import time
import urllib.request

import docker
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import wait_for_logs

SERVE = ["sh", "-c", "echo '<h1>berth</h1>' > /www/index.html; echo serving; exec httpd -f -p 8080 -h /www"]


def server():
    return DockerContainer("alpine:latest").with_command(SERVE).with_exposed_ports(8080)


def page(container):
    address = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(8080)}/"
    for attempt in range(100):
        try:
            return urllib.request.urlopen(address, timeout=10).read()
        except OSError:
            if attempt == 99:
                raise
            time.sleep(0.1)


def day():
    client = docker.from_env()
    # What another process left is its own reaper's, which may be at it still.
    before = {each["Id"] for each in client.api.containers(all=True)}
    with server().with_env("COLOUR", "blue") as container:
        wait_for_logs(container, "serving", timeout=60)
        assert page(container) == b"<h1>berth</h1>\n"
        code, output = container.exec(["sh", "-c", "echo $COLOUR; exit 3"])
        assert (code, output) == (3, b"blue\n"), (code, output)
        stdout, stderr = container.get_logs()
        assert (stdout, stderr) == (b"serving\n", b""), (stdout, stderr)
        names = [each.name for each in client.containers.list()]
        assert any(name.startswith("testcontainers-ryuk-") for name in names), names
    with Network() as network:
        with server().with_network(network).with_network_aliases("site") as container:
            wait_for_logs(container, "serving", timeout=60)
            with DockerContainer("alpine:latest").with_network(network).with_command("sleep 1000") as visitor:
                code, output = visitor.exec(["wget", "-q", "-O", "-", "http://site:8080/"])
                assert (code, output) == (0, b"<h1>berth</h1>\n"), (code, output)
    left = [each["Image"] for each in client.api.containers(all=True) if each["Id"] not in before]
    assert left == ["testcontainers/ryuk:0.8.1"], left
    print("done")


def leave():
    container = server().with_volume_mapping("berth-kept", "/kept", "rw").start()
    wait_for_logs(container, "serving", timeout=60)
    print("left", flush=True)
    os._exit(0)


{"day": day, "leave": leave}[sys.argv[1]]()
