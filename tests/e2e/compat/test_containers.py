"""testcontainers: a server in a container, found through its published port and gone afterwards."""

import urllib.request

import docker
from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import wait_for_logs

command = ["sh", "-c", "echo '<h1>berth</h1>' > /var/www/index.html; echo serving; exec httpd -f -p 8080 -h /var/www"]
with DockerContainer("busybox").with_command(command).with_exposed_ports(8080) as server:
    wait_for_logs(server, "serving", timeout=60)
    address = f"http://{server.get_container_host_ip()}:{server.get_exposed_port(8080)}/"
    for attempt in range(100):
        try:
            page = urllib.request.urlopen(address, timeout=10).read()
            break
        except OSError:
            if attempt == 99:
                raise
    assert page == b"<h1>berth</h1>\n", page
    assert server.exec(["cat", "/var/www/index.html"]).exit_code == 0
    stdout, _ = server.get_logs()
    assert stdout == b"serving\n", stdout
assert docker.from_env().containers.list(all=True) == []
print("done")
