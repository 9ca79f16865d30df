"""DNS over the real registry: what is healthy, where it is, with which weight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import dns.message
import dns.rcode
import pytest

from ringkeep_core.errors import NoPrimary
from ringkeep_core.services import NO_RANGES, CheckWish, NodeHealth, Registration, Weights
from ringkeep_node.dns.answers import Place
from ringkeep_node.dns.names import RegistryNames
from ringkeep_node.dns.server import DnsSettings, Resolving
from ringkeep_node.machines.registry import COMPARED_WITHIN_S
from ringkeep_node.runtime.services import Services, ServicesSettings
from ringkeep_testing.fake_driver import first_map
from ringkeep_testing.fake_services import FakeServices, fact

ADDRESSES = {"10.0.0.1": "10.0.0.1", "127.0.0.1": "127.0.0.1", "known.example.com": "192.0.2.7"}


def named(services: Services) -> RegistryNames:
    """Return the names of a registry; some host names are resolved already."""
    return RegistryNames(lambda: services.view, lambda: services.nodes_view, first_map, ADDRESSES.get, datacenter="dc1")


def run(test: Callable[[FakeServices, RegistryNames], None]) -> None:
    """Run a test with a registry, on a loop: its checks may need one."""

    async def whole() -> None:
        services = FakeServices()
        test(services, named(services))
        await services.close()

    asyncio.run(whole())


def test_only_what_is_not_critical_is_named_with_the_weight_of_its_state() -> None:
    def test(services: FakeServices, names: RegistryNames) -> None:
        for number, status in ((1, "passing"), (2, "warning"), (3, "critical")):
            wanted = Registration(
                address="10.0.0.1",
                port=number,
                tags=(f"V{number}",),
                weights=Weights(7, 3),
                checks=(CheckWish(ttl_s=10, status=status),),
            )
            services.register("web", f"web-{number}", wanted, client="")

        assert names.service("web", None) == [Place("n1", "10.0.0.1", 1, 7), Place("n1", "10.0.0.1", 2, 3)]
        assert names.service("web", "v2") == [Place("n1", "10.0.0.1", 2, 3)]
        assert names.service("web", "v3") == names.service("none", None) == []
        serial = names.serial
        services.pass_time(11)
        assert names.service("web", None) == []
        assert names.serial > serial

    run(test)


def test_a_tag_with_dots_is_longer_than_its_end_while_an_instance_that_has_it_is_healthy() -> None:
    def test(services: FakeServices, names: RegistryNames) -> None:
        checks = (CheckWish(ttl_s=10),)
        services.register("web", "web-1", Registration(port=1, tags=("A.B", "c"), checks=checks), client="")
        asked = [names.has_longer_tag(*pair) for pair in (("web", "b"), ("web", "a.b"), ("web", "c"), ("none", "b"))]
        services.pass_time(11)

        assert asked == [True, False, False, False]
        assert not names.has_longer_tag("web", "b")

    run(test)


def test_nodes_are_named_dead_or_alive_and_serve_only_alive() -> None:
    def test(services: FakeServices, names: RegistryNames) -> None:
        services.nodes(fact("n1"), fact("n2", "10.0.0.2"), fact("n3", "10.0.0.3", health=NodeHealth.DEAD))

        assert [names.node(name) for name in ("n1", "n2", "n3", "n4")] == ["127.0.0.1", "10.0.0.2", "10.0.0.3", None]
        assert [place.node for place in names.service("ringkeep", None)] == ["n1", "n2"]
        assert names.own_address() == "127.0.0.1"

    run(test)


def test_the_primary_of_a_shard_is_named_while_its_node_lives() -> None:
    def test(services: FakeServices, names: RegistryNames) -> None:
        held = first_map()
        first = next(number for number, shard in enumerate(held.shards) if shard.primary.storage.endswith("2"))
        services.nodes(fact("n1"), fact("n2", "10.0.0.2"), fact("n3", "10.0.0.3"))

        assert names.shard(first) == Place("n2", "10.0.0.2", 8081)
        assert names.shard(len(held.shards)) is None
        services.nodes(fact("n1"), fact("n2", "10.0.0.2", health=NodeHealth.DEAD), fact("n3", "10.0.0.3"))
        assert names.shard(first) is None

    run(test)


def test_a_host_name_is_its_address_as_soon_as_that_is_known() -> None:
    def test(services: FakeServices, names: RegistryNames) -> None:
        for host in ("known.example.com", "other.example.com"):
            services.register("web", host, Registration(address=host, port=1), client="")

        assert [place.address for place in names.service("web", None)] == ["192.0.2.7", "other.example.com"]

    run(test)


def test_a_node_that_has_just_started_names_nodes_and_fails_to_name_what_is_registered() -> None:
    def test(services: FakeServices, names: RegistryNames) -> None:
        services.register("web", "web-1", Registration(address="10.0.0.1", port=1), client="")
        services.nodes(fact("n1"), fact("n2", "127.0.0.2"), have_compared=False)
        resolving = Resolving(names, DnsSettings(), lambda: 0.0, lambda: 0.0)

        def asked(name: str) -> tuple[dns.rcode.Rcode, int]:
            wire = resolving.reply(dns.message.make_query(name, "A").to_wire(), "::1", over_udp=True)
            assert wire is not None
            answer = dns.message.from_wire(wire)
            return answer.rcode(), len(answer.answer)

        built_in = [asked(f"{name}.consul") for name in ("n2.node", "ringkeep.service")]
        early = [asked(f"{name}.service.consul") for name in ("web", "nobody")]
        services.pass_time(COMPARED_WITHIN_S)

        assert built_in == [(dns.rcode.NOERROR, 1), (dns.rcode.NOERROR, 1)]
        assert early == [(dns.rcode.SERVFAIL, 0), (dns.rcode.SERVFAIL, 0)]
        assert asked("web.service.consul") == (dns.rcode.NOERROR, 1)

    run(test)


def test_a_node_without_a_cluster_names_nothing_and_says_so() -> None:
    names = named(Services(ServicesSettings(), NO_RANGES, clock=lambda: 0.0))

    with pytest.raises(NoPrimary):
        names.service("web", None)
