"""Clients that nobody here wrote find services at a real cluster: py-consul, dig, and Prometheus in three ways."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ringkeep_testing.real_cluster import HOST, RealCluster, mortal, run, until
from ringkeep_testing.real_prometheus import RealPrometheus, RealVictoriaMetrics, can_have_its_own_resolver, may_listen

consul = pytest.importorskip("consul", reason="needs py-consul, which is in the lock: make venv")

SHARDS = 16
CONSUL2 = "RINGKEEP_TEST_PYTHON_CONSUL2"
"""A folder with python-consul2 and six, which cannot be installed beside py-consul: both are called ``consul``."""


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Start nodes with these variables."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def discovery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Three nodes that answer DNS too, each at a port of its own, for tests that only register and look."""
    with RealCluster(tmp_path_factory.mktemp("discovery") / "cluster") as made:
        with environment(RINGKEEP_DNS=f"{HOST}:0"):
            begin(made)
        yield made


def begin(cluster: RealCluster) -> None:
    """Start a cluster of three nodes, each of which takes registrations.

    A node that has just started refuses them (503) until it knows what the others hold; registrars ask again.
    """
    run(cluster.up(3, shards=SHARDS))
    for name in cluster.names:
        takes_registrations(cluster, name)


def takes_registrations(cluster: RealCluster, name: str) -> None:
    """Wait until a node takes a registration."""
    agent = client_of(cluster, name).agent

    def registered() -> bool:
        try:
            return bool(agent.service.register("probe", f"probe-{name}"))
        except consul.ConsulException as error:
            if not str(error).startswith("503"):
                raise
            return False

    soon(registered, f"{name} takes registrations")
    assert agent.service.deregister(f"probe-{name}")


def port_of(cluster: RealCluster, name: str) -> int:
    """Return the port of a node's REST interface."""
    return int(cluster.node(name).url.rpartition(":")[2])


def client_of(cluster: RealCluster, name: str = "n1", **options: Any) -> Any:
    """Return py-consul's client of one node."""
    return consul.Consul(host=HOST, port=port_of(cluster, name), **options)


def soon(ask: Callable[[], Any], what: str) -> Any:
    """Ask again and again until the answer is true, and return it."""

    async def asked() -> Any:
        return ask() or None

    return run(until(asked, what))


# --- py-consul ---------------------------------------------------------------------------------------------------


def test_py_consul_registers_with_a_ttl_passes_fails_and_deregisters(discovery: RealCluster) -> None:
    one, two = client_of(discovery, "n1"), client_of(discovery, "n2")
    assert one.agent.service.register(
        "shop", "shop-1", HOST, 4711, ["v1", "blue"], check=consul.Check.ttl("30s"), meta={"team": "a"}
    )
    states = []
    for tell in (
        one.agent.check.ttl_pass,
        one.agent.check.ttl_warn,
        one.agent.check.ttl_fail,
        one.agent.check.ttl_pass,
    ):
        assert tell("service:shop-1", notes="as told")
        states.append(one.health.checks("shop")[1][0]["Status"])
    index, rows = soon(lambda: _if_any(two.health.service("shop", passing=True, tag="blue")), "n2 has heard of it")
    flat = two.catalog.service("shop")[1]
    told = one.agent.services()["shop-1"]
    assert one.agent.service.deregister("shop-1")
    assert one.agent.service.deregister("shop-1")
    soon(lambda: not two.health.service("shop")[1], "n2 has heard that it is gone")

    assert states == ["passing", "warning", "critical", "passing"]
    assert int(index) >= 1
    assert (rows[0]["Service"]["Address"], rows[0]["Service"]["Port"], rows[0]["Node"]["Node"]) == (HOST, 4711, "n1")
    assert (flat[0]["ServiceID"], flat[0]["ServiceTags"], flat[0]["ServiceMeta"]) == (
        "shop-1",
        ["v1", "blue"],
        {"team": "a"},
    )
    assert (told["Service"], told["Port"]) == ("shop", 4711)


def _if_any(answer: tuple[str, list[Any]]) -> Any:
    return answer if answer[1] else None


def test_py_consuls_blocking_query_at_one_node_sees_a_change_at_another(discovery: RealCluster) -> None:
    one, two = client_of(discovery, "n1"), client_of(discovery, "n2")
    index, before = one.health.service("late", passing=True)
    found: list[Any] = []
    waiting = threading.Thread(
        target=lambda: found.append(one.health.service("late", passing=True, index=index, wait="60s"))
    )
    waiting.start()
    try:
        soon(lambda: waiting.is_alive(), "the query waits")
        assert two.agent.service.register("late", port=1)
        waiting.join(timeout=30)
        assert not waiting.is_alive()
    finally:
        two.agent.service.deregister("late")

    assert before == []
    assert int(found[0][0]) > int(index)
    assert [row["Service"]["ID"] for row in found[0][1]] == ["late"]


def test_py_consul_reads_the_catalog_the_agent_and_the_leader(discovery: RealCluster) -> None:
    one = client_of(discovery, consistency="stale")
    names = ["n1", "n2", "n3"]

    assert one.agent.self()["Config"]["Datacenter"] == "dc1"
    assert [row["Name"] for row in one.agent.members()] == names
    assert [row["Node"] for row in one.catalog.nodes()[1]] == names
    assert one.catalog.node("n2")[1]["Node"]["Address"] == HOST
    assert one.catalog.datacenters() == ["dc1"]
    assert "ringkeep" in one.catalog.services()[1]
    assert [row["Node"]["Node"] for row in one.health.service("ringkeep", passing=True)[1]] == names
    assert {row["CheckID"] for row in one.health.node("n3")[1]} == {"serfHealth"}
    assert one.health.state("critical")[1] == []
    assert one.status.leader() in one.status.peers()
    assert len(one.status.peers()) == 3


def test_py_consul_changes_checks_and_maintenance(discovery: RealCluster) -> None:
    one = client_of(discovery)
    assert one.agent.service.register("kept", port=1)
    try:
        assert one.agent.check.register("extra", check=consul.Check.ttl("30s"), service_id="kept")
        assert one.agent.check.ttl_pass("extra")
        assert one.agent.service.maintenance("kept", True, "because")
        during = one.health.service("kept", passing=True)[1]
        notes = {check["CheckID"]: check["Notes"] for check in one.health.checks("kept")[1]}
        assert one.agent.service.maintenance("kept", False)
        assert one.agent.check.deregister("extra")

        assert during == []
        assert notes == {"extra": "", "_service_maintenance:kept": "because"}
        assert len(one.health.service("kept", passing=True)[1]) == 1
        assert one.agent.checks() == {}
    finally:
        one.agent.service.deregister("kept")


def test_py_consul_registers_in_the_catalog(discovery: RealCluster) -> None:
    one = client_of(discovery)
    assert one.catalog.register("mailer", "10.7.7.7", service={"service": "mail", "id": "mail-1", "port": 25})
    row = one.catalog.service("mail")[1][0]
    assert one.catalog.deregister("mailer", service_id="mail-1")

    assert (row["ServiceAddress"], row["ServicePort"]) == ("10.7.7.7", 25)
    assert one.catalog.service("mail")[1] == []


def test_py_consul_is_told_in_a_sentence_what_is_refused(discovery: RealCluster) -> None:
    one = client_of(discovery)

    with pytest.raises(consul.exceptions.BadRequest, match=r"400 a service name is a DNS label"):
        one.agent.service.register("Not A Name")
    with pytest.raises(consul.exceptions.BadRequest, match="a node runs no scripts or containers for checks"):
        one.agent.service.register("web", check=consul.Check.script(["true"], "10s"))
    with pytest.raises(consul.exceptions.BadRequest, match="filter expressions are not supported here"):
        one.health.service("web", filter_expr="Service.Port == 1")
    assert one.agent.check.ttl_pass("service:unknown") is False


def test_a_service_survives_the_node_that_took_it_when_another_one_is_told_that_it_lives(cluster: RealCluster) -> None:
    begin(cluster)
    taker, other = client_of(cluster, "n3"), client_of(cluster, "n1")
    assert taker.agent.service.register("job", port=1, check=consul.Check.ttl("30s"))
    assert taker.agent.service.register("lost", port=2, check=consul.Check.ttl("30s"))
    assert taker.agent.check.ttl_pass("service:job") and taker.agent.check.ttl_pass("service:lost")
    soon(lambda: len(other.health.service("lost", passing=True)[1]) == 1, "n1 has heard of both")
    index, _ = other.health.service("job", passing=True)
    cluster.kill("n3")
    soon(lambda: not other.health.service("lost", passing=True)[1], "nothing of a dead node passes")
    assert other.agent.check.ttl_pass("service:job")
    kept = soon(lambda: other.health.service("job", passing=True)[1], "what was renewed passes")
    soon(lambda: not other.catalog.service("lost")[1], "what was not is forgotten")

    assert [row["Node"]["Node"] for row in kept] == ["n1"]
    assert len(other.health.service("job", passing=True)[1]) == 1
    assert int(other.health.service("job")[0]) > int(index)


STORY = """
import sys
import consul
one, two = (consul.Consul(host="127.0.0.1", port=int(port)) for port in sys.argv[1:])
check = consul.Check.ttl("30s")
assert one.agent.service.register("two", service_id="two-1", address="127.0.0.1", port=7, tags=["a"], check=check)
assert one.agent.check.ttl_pass("service:two-1")
index, rows = one.health.service("two", passing=True, tag="a")
assert [row["Service"]["ID"] for row in rows] == ["two-1"], rows
assert one.agent.check.ttl_fail("service:two-1")
index, rows = one.health.service("two", passing=True, index=index, wait="10s")
assert rows == [], rows
assert [row["ServicePort"] for row in one.catalog.service("two")[1]] == [7]
assert len(two.agent.members()) == 3 and one.agent.self()["Config"]["Datacenter"] == "dc1"
assert one.agent.service.deregister("two-1")
assert one.catalog.service("two")[1] == []
print("done", consul.__version__)
"""


def test_python_consul2_tells_the_same_story(discovery: RealCluster) -> None:
    folder = os.environ.get(CONSUL2, "")
    if not folder:
        pytest.skip(f"needs python-consul2 in a folder of its own, named by {CONSUL2} (pip install --target)")
    ports = [str(port_of(discovery, name)) for name in ("n1", "n2")]
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STORY, *ports],
        env={**os.environ, "PYTHONPATH": folder},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (told.returncode, told.stdout.split()) == (0, ["done", "0.1.5"]), told.stderr


# --- dig ---------------------------------------------------------------------------------------------------------


def dns_port(cluster: RealCluster, name: str) -> int:
    """Return the port at which a node answers DNS."""
    return int(next(line["port"] for line in reversed(cluster.log_lines(name)) if line["event"] == "dns_started"))


def dig(cluster: RealCluster, *question: str, at: str = "n1") -> str:
    """Ask a node with dig and return everything that it prints."""
    program = shutil.which("dig")
    if program is None:
        pytest.skip("needs the program dig on this machine (Debian: apt-get install dnsutils)")
    asked = [program, f"@{HOST}", "-p", str(dns_port(cluster, at)), "+tries=1", "+time=5", "+nocookie", *question]
    return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout


def short(cluster: RealCluster, *question: str) -> list[str]:
    """Return the answers to a question, sorted."""
    return sorted(dig(cluster, "+short", *question).split("\n")[:-1])


@pytest.fixture(scope="module")
def named(discovery: RealCluster) -> RealCluster:
    """The cluster with a few instances of a service, one of which is critical, and with many of another one."""
    one = client_of(discovery)
    for number in (1, 2, 3):
        assert one.agent.service.register(
            "web",
            f"web-{number}",
            f"10.0.0.{number}",
            8000 + number,
            [f"v{number}"],
            weights={"Passing": 5, "Warning": 2},
        )
    assert one.agent.service.register("web", "web-6", "2001:db8::6", 8006)
    assert one.agent.service.maintenance("web-3", True)
    for number in range(1, 151):
        assert one.agent.service.register("crowd", f"crowd-{number}", f"10.1.0.{number}", 80)
    return discovery


def test_dig_finds_healthy_instances_by_a_aaaa_and_srv(named: RealCluster) -> None:
    assert short(named, "web.service.consul", "A") == ["10.0.0.1", "10.0.0.2"]
    assert short(named, "web.service.ringkeep", "AAAA") == ["2001:db8::6"]
    assert short(named, "v2.web.service.dc1.consul", "A") == ["10.0.0.2"]
    assert short(named, "_web._tcp.service.consul", "SRV") == [
        "1 1 8006 20010db8000000000000000000000006.addr.dc1.consul.",
        "1 5 8001 0a000001.addr.dc1.consul.",
        "1 5 8002 0a000002.addr.dc1.consul.",
    ]
    assert short(named, "n2.node.consul", "A") == [HOST]
    assert short(named, "ringkeep.service.consul", "A") == [HOST]
    ports = {line.split()[2] for line in short(named, "ringkeep.service.consul", "SRV")}
    assert ports == {str(port_of(named, name)) for name in named.names}


def test_dig_finds_the_primary_of_a_shard(named: RealCluster) -> None:
    async def primary() -> str:
        async with named.gateway("n1") as client:
            first = (await client.map()).shards[7].primary
            assert first is not None
            return first.name

    name = run(primary())

    assert short(named, "_shard-7._tcp.service.ringkeep", "SRV") == [
        f"1 1 {port_of(named, name)} {name}.node.dc1.ringkeep."
    ]


def test_dig_gets_everything_over_tcp_after_a_truncated_datagram(named: RealCluster) -> None:
    cut = dig(named, "crowd.service.consul", "A", "+noedns", "+ignore")
    larger = dig(named, "crowd.service.consul", "A", "+bufsize=1232", "+ignore")
    largest = dig(named, "crowd.service.consul", "A", "+bufsize=65000", "+ignore")
    sizes = [int(re.findall(r"MSG SIZE\s+rcvd: (\d+)", text)[0]) for text in (cut, larger, largest)]

    assert all(re.search(r"flags: qr aa tc rd;", text) for text in (cut, larger, largest))
    assert sizes[0] <= 512 < sizes[1] <= 1232 and sizes[2] <= 1232
    assert len(short(named, "crowd.service.consul", "A")) == 150
    assert len(short(named, "crowd.service.consul", "SRV", "+tcp")) == 150


@pytest.mark.parametrize(
    ("question", "status", "soa"),
    [
        (("none.service.consul", "A"), "NXDOMAIN", True),
        (("web.service.consul", "TXT"), "NOERROR", True),
        (("consul", "SOA"), "NOERROR", True),
        (("example.com", "A"), "REFUSED", False),
        (("consul", "AXFR"), "REFUSED", False),
        (("web.service.consul", "A", "-c", "CH"), "REFUSED", False),
        (("web.service.consul", "A", "+edns=1", "+noednsnegotiation"), "BADVERS", False),
        (("web.service.consul", "A", "+opcode=notify"), "NOTIMP", False),
    ],
)
def test_dig_is_told_what_is_not_there_and_what_is_refused(
    named: RealCluster, question: tuple[str, ...], status: str, soa: bool
) -> None:
    if "AXFR" in question:
        question = (*question, "+noall", "+comments")
        assert "Transfer failed" in dig(named, *question) or f"status: {status}" in dig(named, *question)
        return
    told = dig(named, *question)

    assert f"status: {status}" in told
    assert ("SOA" in re.sub(r";.*", "", told)) is soa


# --- Prometheus --------------------------------------------------------------------------------------------------


def job(name: str, kind: str, found: dict[str, Any], *relabel: dict[str, Any]) -> dict[str, Any]:
    """Return a job that finds its targets in one way and looks again every second."""
    return {
        "job_name": name,
        f"{kind}_sd_configs": [{"refresh_interval": "1s", **found}],
        "relabel_configs": list(relabel),
    }


def config(*jobs: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration."""
    return {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": list(jobs)}


async def seen(ask: Callable[[], Awaitable[set[str] | None]], expected: set[str], what: str) -> None:
    """Wait until Prometheus has exactly these targets."""

    async def same() -> bool | None:
        return True if await ask() == expected else None

    await until(same, f"{what}: {sorted(expected)}")


def test_prometheus_follows_services_and_nodes_by_http_sd(cluster: RealCluster, tmp_path: Path) -> None:
    begin(cluster)
    apis = {name: f"{HOST}:{port_of(cluster, name)}" for name in cluster.names}
    alive = {"source_labels": ["__meta_ringkeep_state"], "regex": "alive|suspect", "action": "keep"}
    url = f"http://{apis['n1']}/v1/sd/prometheus"
    jobs = config(
        job("shop", "http", {"url": f"{url}?service=shop&passing=true"}), job("nodes", "http", {"url": url}, alive)
    )
    with RealPrometheus(tmp_path / "prometheus", jobs) as prometheus:
        run(services_come_and_go(cluster, prometheus))


async def services_come_and_go(cluster: RealCluster, prometheus: RealPrometheus) -> None:
    """Register, deregister and kill; the targets of the jobs ``shop`` and ``nodes`` must follow without a reload."""
    apis = {name: f"{HOST}:{port_of(cluster, name)}" for name in cluster.names}
    shop, nodes = partial(prometheus.addresses, "shop"), partial(prometheus.addresses, "nodes")
    await seen(partial(prometheus.up, "nodes"), set(apis.values()), "all nodes are up")
    for owner in ("n2", "n3"):
        # What is scraped is the node that takes the registration: it has numbers to give.
        assert client_of(cluster, owner).agent.service.register("shop", f"shop-{owner}", HOST, port_of(cluster, owner))
    await seen(partial(prometheus.up, "shop"), {apis["n2"], apis["n3"]}, "both instances are up")
    assert client_of(cluster, "n1").agent.service.deregister("shop-n2")
    await seen(shop, {apis["n3"]}, "what was deregistered has gone")
    cluster.kill("n3")
    await seen(shop, set(), "what the dead node owned has gone")
    await seen(nodes, {apis["n1"], apis["n2"]}, "the dead node has gone")


def test_victoria_metrics_follows_services_and_nodes_by_consul_sd(cluster: RealCluster, tmp_path: Path) -> None:
    begin(cluster)
    passing = {"source_labels": ["__meta_consul_health"], "regex": "passing", "action": "keep"}
    jobs = config(
        *(
            {
                "job_name": name,
                "consul_sd_configs": [{"server": f"{HOST}:{port_of(cluster, 'n1')}", "services": [service]}],
                "relabel_configs": [passing],
            }
            for name, service in (("shop", "shop"), ("nodes", "ringkeep"))
        )
    )
    with RealVictoriaMetrics(tmp_path / "metrics", jobs) as metrics:
        run(services_come_and_go(cluster, metrics))


def test_the_consul_discovery_of_prometheus_follows_services_and_nodes(cluster: RealCluster, tmp_path: Path) -> None:
    program = built_discovery(tmp_path)
    begin(cluster)
    one = client_of(cluster)
    asked = json.dumps({"server": f"{HOST}:{port_of(cluster, 'n1')}", "refresh_interval": "1s"})
    lines = tmp_path / "found.jsonl"
    with lines.open("wb") as output:
        discovery = subprocess.Popen(mortal((program, asked)), stdout=output, stderr=subprocess.DEVNULL)
    try:
        for number, owner in ((1, "n2"), (2, "n3")):
            assert client_of(cluster, owner).agent.service.register(
                "shop", f"shop-{number}", "10.0.0.1", number, ["a", "b"]
            )
        soon(lambda: found(lines, "shop") == {"10.0.0.1:1": "passing", "10.0.0.1:2": "passing"}, "both instances")
        assert one.agent.service.maintenance("shop-1", True)
        soon(lambda: found(lines, "shop") == {"10.0.0.1:1": "maintenance", "10.0.0.1:2": "passing"}, "maintenance")
        assert one.agent.service.deregister("shop-1")
        soon(lambda: found(lines, "shop") == {"10.0.0.1:2": "passing"}, "one was deregistered")
        cluster.kill("n3")
        soon(lambda: sorted(found(lines, "ringkeep").values()) == ["critical", "passing", "passing"], "a node is dead")
        soon(lambda: not found(lines, "shop"), "what the dead node owned has gone")
        first = json.loads(lines.read_text().splitlines()[0])
    finally:
        discovery.kill()
        discovery.wait()

    assert first["labels"]["__meta_consul_dc"] == "dc1"


def built_discovery(path: Path) -> str:
    """Return the program that runs the discovery of Prometheus itself, built here from its released source.

    Only where that is asked for: the first build fetches modules and takes minutes.
    """
    go = shutil.which("go")
    if go is None or not os.environ.get("RINGKEEP_TEST_GO"):
        pytest.skip("needs go and RINGKEEP_TEST_GO=1: Debian's Prometheus is built without its Consul discovery")
    source, program = Path(__file__).parent / "consul_sd", path / "consul_sd"
    quietly = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOMAXPROCS": "1"}
    built = subprocess.run(
        [go, "build", "-p", "1", "-o", str(program), "."],
        cwd=source,
        env=quietly,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    if built.returncode:
        pytest.skip(f"the discovery of Prometheus cannot be built here: {built.stderr.strip().splitlines()[-1]}")
    return str(program)


def found(lines: Path, service: str) -> dict[str, str]:
    """Return the newest targets of a service with their health."""
    rows = [json.loads(line) for line in lines.read_text().splitlines(keepends=True) if line.endswith("\n")]
    newest = next((row["targets"] for row in reversed(rows) if row["source"] == service), None)
    return {target["__address__"]: target["__meta_consul_health"] for target in newest or ()}


def test_prometheus_follows_a_service_by_dns_sd(cluster: RealCluster, tmp_path: Path) -> None:
    if not can_have_its_own_resolver():
        pytest.skip("needs the right to make a mount namespace: Prometheus asks whoever /etc/resolv.conf names")
    server = f"127.53.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"
    if not may_listen(server, 53):
        pytest.skip("needs the right to listen on port 53: Prometheus asks no other one")
    begin(cluster)
    with environment(RINGKEEP_DNS=f"{server}:53"):
        run(cluster.restart("n1"))
    takes_registrations(cluster, "n1")
    apis = {name: f"{HOST}:{port_of(cluster, name)}" for name in cluster.names}
    jobs = config(
        job("srv", "dns", {"names": ["shop.service.ringkeep"]}),
        job("address", "dns", {"names": ["shop.service.ringkeep"], "type": "A", "port": 9}),
        job("nodes", "dns", {"names": ["ringkeep.service.ringkeep"]}),
    )

    def targets(*names: str) -> set[str]:
        return {f"{name}.node.dc1.ringkeep:{port_of(cluster, name)}" for name in names}

    with RealPrometheus(tmp_path / "prometheus", jobs, name_server=server) as prometheus:

        async def story() -> None:
            await seen(partial(prometheus.up, "nodes"), targets("n1", "n2", "n3"), "all nodes up")
            for owner in ("n2", "n3"):
                port = port_of(cluster, owner)
                assert client_of(cluster, owner).agent.service.register("shop", f"shop-{owner}", port=port)
            await seen(partial(prometheus.up, "srv"), targets("n2", "n3"), "both instances up")
            await seen(partial(prometheus.addresses, "address"), {f"{HOST}:9"}, "the address that they share")
            assert client_of(cluster, "n1").agent.service.deregister("shop-n2")
            await seen(partial(prometheus.addresses, "srv"), targets("n3"), "what was deregistered has gone")
            cluster.kill("n3")
            await seen(partial(prometheus.addresses, "srv"), set(), "what the dead node owned has gone")
            await seen(partial(prometheus.addresses, "nodes"), targets("n1", "n2"), "and the node itself")
            assert set(apis) == {"n1", "n2", "n3"}

        run(story())
