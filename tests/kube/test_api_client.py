"""What the client sends to an API server and how it takes the answers, against kmock: requests as they came over the wire.

kmock stores objects as plain JSON: nothing is claimed here about server-side apply itself, admission or defaults.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import kmock
import pytest

from ringkeep_operator.kube import (
    Api,
    Changed,
    Configuration,
    Denied,
    Expired,
    Invalid,
    Missing,
    Unavailable,
    error_of,
)
from ringkeep_operator.state import ObjectId

SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo"}, "spec": {"clusterIP": "None"}}
PATH = "/api/v1/namespaces/default/services"


def run(test: Callable[[Api, kmock.RawHandler, list[str]], Awaitable[None]]) -> None:
    async def inside() -> None:
        points: list[str] = []
        async with kmock.RawHandler() as mock, kmock.Server(mock):
            where = Configuration()
            where.host = str(mock.url).rstrip("/")
            api = Api(where, field_manager="tests", reached=points.append, request_s=2.0, first_wait_s=0.001)
            try:
                await test(api, mock, points)
            finally:
                await api.close()

    asyncio.run(inside())


def test_an_apply_is_forced_under_our_name_and_lies_between_two_failpoints() -> None:
    async def test(api: Api, mock: kmock.RawHandler, points: list[str]) -> None:
        mock[f"patch {PATH}/demo"] << SERVICE
        said = await api.apply(SERVICE, "default")
        (request,) = mock["patch"]

        assert said == SERVICE and request.data == SERVICE
        assert dict(request.params) == {"fieldManager": "tests", "force": "true"}
        assert request.headers["Content-Type"] == "application/apply-patch+yaml"
        assert points == ["before:apply:Service", "after:apply:Service"]

    run(test)


def test_a_deletion_names_the_very_object_that_was_seen() -> None:
    async def test(api: Api, mock: kmock.RawHandler, points: list[str]) -> None:
        mock[f"delete {PATH}/demo"] << {"kind": "Status"}
        there = await api.delete(ObjectId("Service", "demo", "u1", "7"), "default", 0)
        (request,) = mock["delete"]

        assert there
        assert request.data == {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": "u1", "resourceVersion": "7"},
            "propagationPolicy": "Background",
            "gracePeriodSeconds": 0,
        }

    run(test)


def test_deleting_what_is_gone_is_no_error_and_changes_nothing() -> None:
    async def test(api: Api, mock: kmock.RawHandler, points: list[str]) -> None:
        mock[f"delete {PATH}/demo"] << 404

        assert not await api.delete(ObjectId("Service", "demo", "u1", "7"), "default")

    run(test)


def test_a_status_goes_to_its_own_path_under_a_name_of_its_own() -> None:
    async def test(api: Api, mock: kmock.RawHandler, points: list[str]) -> None:
        mock["patch"] << {}
        shown = {
            "apiVersion": "ringkeep.dev/v1alpha1",
            "kind": "Cluster",
            "metadata": {"name": "demo"},
            "status": {"replicas": 3},
        }
        await api.apply_status(shown, "default")
        (request,) = mock["patch"]

        assert request.url.path == "/apis/ringkeep.dev/v1alpha1/namespaces/default/clusters/demo/status"
        assert request.params["fieldManager"] == "tests-status"

    run(test)


def test_a_read_is_tried_again_a_few_times_and_then_told() -> None:
    async def test(api: Api, mock: kmock.RawHandler, points: list[str]) -> None:
        mock[f"get {PATH}"] << 503
        with pytest.raises(Unavailable):
            await api.list("Service", "default", "a=b")

        assert [request.params["labelSelector"] for request in mock["get"]] == ["a=b"] * 4

    run(test)


def test_a_lease_is_never_written_twice_by_one_call() -> None:
    async def test(api: Api, mock: kmock.RawHandler, points: list[str]) -> None:
        mock["put"] << 500
        with pytest.raises(Unavailable):
            await api.replace({"kind": "Lease", "metadata": {"name": "l"}}, "default")

        assert len(mock["put"]) == 1 and points == ["before:replace:Lease"]

    run(test)


def test_what_is_listed_has_its_kind_though_the_items_do_not_say_it() -> None:
    async def test(api: Api, mock: kmock.RawHandler, points: list[str]) -> None:
        mock[f"get {PATH}"] << {"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"name": "demo"}}]}
        listing = await api.list("Service", "default")

        assert listing.version == "9"
        assert listing.items == ({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo"}},)

    run(test)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Denied),
        (403, Denied),
        (404, Missing),
        (409, Changed),
        (410, Expired),
        (422, Invalid),
        (429, Unavailable),
        (500, Unavailable),
        (504, Unavailable),
    ],
)
def test_every_refusal_has_a_type_and_what_the_api_server_said(status: int, kind: type[Exception]) -> None:
    error = error_of(status, b'{"kind": "Status", "message": "because", "reason": "Because"}')

    assert (type(error), error.detail, error.status, error.reason) == (kind, "because", status, "Because")


def test_an_answer_that_is_no_json_is_told_in_its_own_words() -> None:
    assert error_of(502, b"<html>bad gateway</html>").detail == "<html>bad gateway</html>"
