"""Replace pods of an older revision, one by one, so that the cluster serves all the time.

    broken pods of a wrong revision (bad image) first: they serve nobody
    then, only while all shards are ok and everybody else is ready and alive: from the last ordinal down, the Raft leader
    last, after it has handed leadership over

A pod that is older than the Secret of the administration token is replaced in the same way: it still knows the former one.
A pod of the new revision that does not become ready stops the rollout where it is: a bad image takes one pod, and when the
spec is corrected that pod is replaced first. A node moves its primaries away by itself when it is asked to end.

Source: kubernetes #67250.
"""

from __future__ import annotations

from ringkeep_operator.children import set_is_applied
from ringkeep_operator.scaling import goes_with_its_pod
from ringkeep_operator.state import Action, Delete, SeenPod, TransferLeader
from ringkeep_operator.view import BROKEN, Note, Outcome, Reason, View

STUCK_S = 60.0
"""A pod of a wrong revision that has not become a living member after so long is as good as broken."""


def roll_out(view: View) -> Outcome:
    """Return the pod to replace next, if one may be, and what the rollout waits for."""
    stale = stale_pods(view)
    if not stale or view.spec.suspend:
        return Outcome()
    names = ", ".join(pod.name for pod in stale)
    under_way = (
        Note(Reason.ROLLING_OUT, f"{names} {'has' if len(stale) == 1 else 'have'} an older revision or token"),
    )
    broken = [
        pod for pod in stale if _is_broken(view, pod) and not pod.is_deleting and not goes_with_its_pod(view, pod.name)
    ]
    if broken:
        actions = tuple(Delete(view.id_of(pod), "it does not run, and it is an older one") for pod in broken)
        return Outcome(actions=actions, under_way=under_way, soon_s=1.0)
    hindrance = _hindrance(view, stale)
    if hindrance:
        return Outcome(under_way=(Note(Reason.ROLLING_OUT, f"{under_way[0].message}; {hindrance}"),), soon_s=1.0)
    return Outcome(actions=_next(view, stale), under_way=under_way, soon_s=1.0)


def stale_pods(view: View) -> list[SeenPod]:
    """Return the pods of an older revision in the order in which they are replaced; none while that is not known."""
    stale = []
    for group in view.groups:
        revision = view.revision_wanted(group) if set_is_applied(view, group.component) else ""
        if revision:
            stale += [pod for pod in reversed(view.pods_of(group)) if _why_stale(view, pod, revision)]
    leader = view.cluster.leader if view.cluster is not None else ""
    return sorted(stale, key=lambda pod: (pod.is_ready, pod.name == leader))


def _why_stale(view: View, pod: SeenPod, revision: str) -> str:
    """Return why a pod is to be replaced, "" if it is not: a container keeps the token that it was started with."""
    if pod.revision != revision:
        return "its revision is an older one"
    return "the Secret of the token is newer" if pod.since < view.token_since() else ""


def _is_broken(view: View, pod: SeenPod) -> bool:
    """Return whether it serves nobody: its container does not run, and no member says that it lives."""
    if pod.is_ready or view.is_alive(pod.name) or pod.name in view.answers:
        return False
    return pod.waiting in BROKEN or (view.cluster is not None and view.now - pod.since >= STUCK_S and not _runs(pod))


def _runs(pod: SeenPod) -> bool:
    return pod.phase == "Running"


def _hindrance(view: View, stale: list[SeenPod]) -> str:
    """Return why no healthy pod may be taken now, "" if one may."""
    cluster = view.cluster
    if cluster is None or cluster.term == 0 or not cluster.leader:
        return "waiting for a leader"
    if cluster.shards_ok != len(cluster.shard_map.shards):
        return f"waiting for all shards: {cluster.shards_ok} of {len(cluster.shard_map.shards)} are ok"
    ending = [pod.name for pod in view.pods.values() if pod.is_deleting]
    if ending:
        return f"waiting for {', '.join(ending)} to be replaced"
    chosen = stale[0].name
    if goes_with_its_pod(view, chosen):
        return f"the claim of {chosen} is being deleted, and its data would go with the pod"
    for group in view.groups:
        for ordinal in range(max(view.standing(group), view.count(group))):
            name = group.member(ordinal)
            pod = view.pods.get(name)
            if pod is None or (not pod.is_ready and name != chosen):
                return f"waiting for {name} to be ready"
            if name != chosen and (not view.is_alive(name) or view.listed(name) is None):
                return f"waiting for {name} to be a living member"
    return ""


def _may_lead(view: View, name: str) -> bool:
    """Members of weight 0 do not vote beside others: asked for an heir, a lone member would refuse for ever."""
    want = view.listed(name)
    return want is not None and want.weight > 0 and not want.draining and view.is_alive(name)


def _next(view: View, stale: list[SeenPod]) -> tuple[Action, ...]:
    pod = stale[0]
    assert view.cluster is not None, "a pod is only taken while the cluster is seen"
    if pod.name == view.cluster.leader and any(_may_lead(view, name) for name in view.members if name != pod.name):
        # Which of them vote the leader knows best.
        return (TransferLeader(),)
    group = view.group_of(pod.name)
    assert group is not None, "only pods of ours are stale"
    return (Delete(view.id_of(pod), _why_stale(view, pod, view.revision_wanted(group))),)
