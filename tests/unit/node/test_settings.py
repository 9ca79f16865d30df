"""Settings: read from the environment, refused with one sentence, shown without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringkeep_core.errors import BadSetting
from ringkeep_node.app import SUBSYSTEMS, configuration
from ringkeep_node.machines.raft.settings import RaftSettings
from ringkeep_node.runtime.wal.log import LogSettings
from ringkeep_node.settings import (
    NODE_VARIABLES,
    Address,
    address,
    node_settings,
    subsystem,
    unknown,
    variables_of,
)

NEEDED = {"RINGKEEP_NAME": "n1", "RINGKEEP_DATA": "/data"}


def test_a_node_needs_a_name_and_a_directory_and_has_defaults_for_the_rest() -> None:
    settings = node_settings(NEEDED)

    assert (settings.name, settings.data) == ("n1", Path("/data"))
    assert (settings.api.text, settings.peer.text, settings.advertise.text) == (
        "127.0.0.1:8080",
        "127.0.0.1:7400",
        "127.0.0.1:7400",
    )
    assert (settings.seeds, settings.zone, settings.weight, settings.admin_token) == ((), "", 1.0, None)
    assert settings.url == "http://127.0.0.1:8080"


def test_everything_can_be_set() -> None:
    settings = node_settings(
        {
            "RINGKEEP_NAME": "demo-0",
            "RINGKEEP_DATA": "/data",
            "RINGKEEP_API": "0.0.0.0:8080",
            "RINGKEEP_PEER": "[::]:7400",
            "RINGKEEP_ADVERTISE": "demo-0.demo.ns.svc:7400",
            "RINGKEEP_DNS": "127.0.0.1:8600",
            "RINGKEEP_SEEDS": " demo-0.demo:7400, ,[fd00::1]:7400,",
            "RINGKEEP_ZONE": "eu 1",
            "RINGKEEP_WEIGHT": "0.5",
            "RINGKEEP_ADMIN_TOKEN": "s3cret",
            "RINGKEEP_LOG_LEVEL": "debug",
            "RINGKEEP_LOG_LINES_MAX": "100",
            "RINGKEEP_STOP_NOTICE_S": "5",
            "RINGKEEP_LEFT_DATA": "empty",
        }
    )

    assert settings.shown() == {
        "name": "demo-0",
        "data": "/data",
        "api": "0.0.0.0:8080",
        "peer": "[::]:7400",
        "advertise": "demo-0.demo.ns.svc:7400",
        "dns": "127.0.0.1:8600",
        "seeds": "demo-0.demo:7400,[fd00::1]:7400",
        "zone": "eu 1",
        "weight": "0.5",
        "admin_token": "***",
        "log_level": "debug",
        "log_lines_max": "100",
        "stop_notice_s": "5.0",
        "left_data": "empty",
    }
    assert settings.url == "http://demo-0.demo.ns.svc:8080"
    assert "s3cret" not in str(settings.shown())


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"RINGKEEP_NAME": ""}, "RINGKEEP_NAME is not set"),
        ({"RINGKEEP_NAME": "Node_1"}, "RINGKEEP_NAME is 1..63 of a-z"),
        ({"RINGKEEP_DATA": ""}, "RINGKEEP_DATA is not set"),
        ({"RINGKEEP_API": "8080"}, "RINGKEEP_API is host:port"),
        ({"RINGKEEP_API": "::1:8080"}, "RINGKEEP_API is host:port"),
        ({"RINGKEEP_API": "h:65536"}, "RINGKEEP_API is host:port"),
        ({"RINGKEEP_API": "http://h:1"}, "RINGKEEP_API is host:port"),
        ({"RINGKEEP_API": "h:²"}, "RINGKEEP_API is host:port"),
        ({"RINGKEEP_PEER": "h:"}, "RINGKEEP_PEER is host:port"),
        ({"RINGKEEP_DNS": "53"}, "RINGKEEP_DNS is host:port"),
        ({"RINGKEEP_SEEDS": "a:1,b"}, "RINGKEEP_SEEDS is host:port"),
        ({"RINGKEEP_SEEDS": ",".join(f"h{i}:1" for i in range(65))}, "RINGKEEP_SEEDS names at most 64 nodes, not 65"),
        ({"RINGKEEP_PEER": "0.0.0.0:7400"}, "other nodes cannot reach 0.0.0.0:7400: set RINGKEEP_ADVERTISE"),
        ({"RINGKEEP_API": "10.0.0.1:8080"}, "set RINGKEEP_ADMIN_TOKEN"),
        ({"RINGKEEP_API": "0.0.0.0:8080"}, "set RINGKEEP_ADMIN_TOKEN"),
        ({"RINGKEEP_ADMIN_TOKEN": ""}, "RINGKEEP_ADMIN_TOKEN is empty"),
        ({"RINGKEEP_ADMIN_TOKEN": "a b"}, "RINGKEEP_ADMIN_TOKEN is empty or has a character"),
        ({"RINGKEEP_WEIGHT": "heavy"}, "RINGKEEP_WEIGHT is a number, not 'heavy'"),
        ({"RINGKEEP_WEIGHT": "-1"}, "RINGKEEP_WEIGHT is a number from 0"),
        ({"RINGKEEP_WEIGHT": "nan"}, "RINGKEEP_WEIGHT is a number from 0"),
        ({"RINGKEEP_WEIGHT": "101"}, "RINGKEEP_WEIGHT is 0..100"),
        ({"RINGKEEP_ZONE": "a\nb"}, "RINGKEEP_ZONE has at most 63 visible characters"),
        ({"RINGKEEP_LOG_LEVEL": "loud"}, "RINGKEEP_LOG_LEVEL is one of"),
        ({"RINGKEEP_LOG_LINES_MAX": "10.5"}, "RINGKEEP_LOG_LINES_MAX is a whole number"),
        ({"RINGKEEP_LOG_LINES_MAX": "1"}, "RINGKEEP_LOG_LINES_MAX is 100..1,000,000"),
        ({"RINGKEEP_STOP_NOTICE_S": "301"}, "RINGKEEP_STOP_NOTICE_S is 0..300 seconds"),
        ({"RINGKEEP_LEFT_DATA": "keep"}, "RINGKEEP_LEFT_DATA is one of refuse, empty"),
        ({"RINGKEEP_RAFT_HEARTBEAT_S": "soon"}, "RINGKEEP_RAFT_HEARTBEAT_S is a number, not 'soon'"),
        ({"RINGKEEP_RAFT_HEARTBEAT_S": "9"}, "the settings RINGKEEP_RAFT_\\* contradict each other"),
        ({"RINGKEEP_RAFT_PREVOTE": "perhaps"}, "RINGKEEP_RAFT_PREVOTE is true or false"),
        ({"RINGKEEP_SWIM_PROBE_TIMEOUT_S": "9"}, "the settings RINGKEEP_SWIM_\\* contradict each other"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_one_sentence(changed: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadSetting, match=sentence) as caught:
        configuration(NEEDED | changed)

    assert "\n" not in caught.value.detail


def test_a_loopback_address_needs_no_token() -> None:
    for host in ("127.0.0.1", "127.8.0.1", "[::1]", "localhost"):
        assert node_settings(NEEDED | {"RINGKEEP_API": f"{host}:8080"}).admin_token is None


def test_an_address_is_written_as_it_was_read() -> None:
    assert [address(text, "X").text for text in ("h:1", "[::1]:2", "10.0.0.1:65535")] == [
        "h:1",
        "[::1]:2",
        "10.0.0.1:65535",
    ]
    assert Address("::", 1).is_wildcard and not Address("h", 1).is_loopback


@pytest.mark.parametrize(
    ("pod_ip", "advertised", "listening", "url"),
    [
        ("10.0.0.7", "10.0.0.7:7400", "0.0.0.0", "http://10.0.0.7:8080"),
        ("fd00::7", "[fd00::7]:7400", "::", "http://[fd00::7]:8080"),
    ],
)
def test_a_pods_address_may_be_of_either_family(pod_ip: str, advertised: str, listening: str, url: str) -> None:
    settings = node_settings(
        NEEDED
        | {
            "RINGKEEP_API": "0.0.0.0:8080",
            "RINGKEEP_PEER": "0.0.0.0:7400",
            "RINGKEEP_ADVERTISE": f"[{pod_ip}]:7400",
            "RINGKEEP_ADMIN_TOKEN": "t",
        }
    )

    assert (settings.advertise.text, settings.api.host, settings.peer.host, settings.url) == (
        advertised,
        listening,
        listening,
        url,
    )


def test_a_subsystem_is_its_documented_class_with_what_the_environment_changes() -> None:
    environment = {
        "RINGKEEP_RAFT_HEARTBEAT_S": "0.05",
        "RINGKEEP_RAFT_PREVOTE": "false",
        "RINGKEEP_LOG_BYTES_MAX": "4096",
    }

    assert subsystem("RAFT", RaftSettings, environment) == RaftSettings(heartbeat_s=0.05, prevote=False)
    assert subsystem("LOG", LogSettings, environment, salt=7) == LogSettings(log_bytes_max=4096, salt=7)
    assert "RINGKEEP_LOG_SALT" not in variables_of("LOG", LogSettings, ("salt",))


def test_variables_that_nobody_reads_are_reported_and_those_of_kubernetes_are_not() -> None:
    environment = NEEDED | {
        "RINGKEEP_SEED": "typing error",
        "RINGKEEP_URL": "of the command",
        "RINGKEEP_SERVICE_HOST": "10.0.0.1",
        "RINGKEEP_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "RINGKEEP_RAFT_HEARTBEAT_S": "0.1",
        "HOME": "/root",
    }

    assert configuration(environment).unknown == ("RINGKEEP_SEED",)
    assert unknown({"RINGKEEP_X": ""}, ["RINGKEEP_X"]) == ()


def test_no_two_settings_share_a_variable() -> None:
    variables = [
        *NODE_VARIABLES,
        *(name for prefix, (kind, fixed) in SUBSYSTEMS.items() for name in variables_of(prefix, kind, fixed)),
    ]

    assert len(set(variables)) == len(variables)


def test_the_documentation_lists_every_variable_and_no_other() -> None:
    text = (Path(__file__).parents[3] / "docs" / "settings.md").read_text()
    documented = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `RINGKEEP_")]
    variables = [
        *NODE_VARIABLES,
        *(name for prefix, (kind, fixed) in SUBSYSTEMS.items() for name in variables_of(prefix, kind, fixed)),
    ]

    assert sorted(documented) == sorted(variables)
