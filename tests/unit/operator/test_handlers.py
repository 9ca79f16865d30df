"""kopf as we set it up: short waits, long patience, nothing written.

Source: kopf, "Configuration".
"""

from __future__ import annotations

import kopf
import pytest

from ringkeep_operator.handlers import connection, kopf_settings, registry_of
from ringkeep_operator.kube import Configuration
from ringkeep_operator.settings import OperatorSettings

SETTINGS = OperatorSettings(lease=False, silence_s=65.0)


def test_kopf_waits_shortly_each_time_and_outlives_an_api_server_that_is_away_for_an_hour() -> None:
    waits = kopf_settings(SETTINGS).networking.error_backoffs

    assert isinstance(waits, tuple)
    assert max(waits) <= 5.0 and sum(waits) >= 3600.0


def test_kopf_has_no_peering_no_scans_and_a_prefix_of_our_own() -> None:
    found = kopf_settings(SETTINGS)

    assert (found.peering.standalone, found.scanning.disabled, found.persistence.finalizer) == (
        True,
        True,
        "ringkeep.dev/finalizer",
    )
    assert (found.watching.inactivity_timeout, max(found.queueing.error_delays)) == (65.0, 10)
    # The API server takes whole seconds only.
    assert isinstance(found.watching.server_timeout, int)


def test_kopf_has_no_handler_that_would_make_it_write() -> None:
    registry = registry_of(lambda _: None, lambda: connection(Configuration()))
    writing = (registry._changing, registry._spawning, registry._indexing, registry._webhooks)

    assert [list(part.get_all_handlers()) for part in writing] == [[], [], [], []]
    assert len(list(registry._watching.get_all_handlers())) == 1


@pytest.mark.parametrize("token", ["bearer abc", "Bearer abc"])
def test_kopf_uses_the_account_of_our_own_client(token: str) -> None:
    where = Configuration()
    where.host, where.api_key["BearerToken"] = "https://kube:6443", token
    found = connection(where)

    assert (found.server, found.scheme, found.token) == ("https://kube:6443", "Bearer", "abc")
    assert isinstance(found, kopf.ConnectionInfo)
