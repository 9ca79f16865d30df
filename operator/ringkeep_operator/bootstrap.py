"""Found the cluster, once.

All expected pods answer, none has a cluster id, and the status has none: only then. As soon as there is any sign of a
cluster it is never founded again: a second founding beside data of the first is how everything is lost. What a crash
interrupted is seen in the pods' disks: their id is taken over into the status.
"""

from __future__ import annotations

from ringkeep_operator.scaling import founders_of
from ringkeep_operator.state import Bootstrap, Tell
from ringkeep_operator.view import Note, Outcome, Reason, View


def bootstrap(view: View) -> Outcome:
    """Return the founding of the cluster, what it waits for, or why it cannot be."""
    if view.spec.suspend:
        return Outcome()
    if view.is_founded:
        return Outcome(wrong=_foreign_data(view))
    nodes = view.names.nodes
    expected = [nodes.member(ordinal) for ordinal in range(view.spec.replicas)]
    silent = [name for name in expected if name not in view.answers or view.pods.get(name) is None]
    # A pod above the size may have been among the founders of an attempt whose outcome nobody saw.
    over = [pod.name for pod in view.pods_of(nodes) if pod.name not in expected]
    if silent or over or view.standing(nodes) != len(expected):
        waiting = f"waiting for {', '.join(silent or over)}" if silent or over else "waiting for the StatefulSet"
        return Outcome(under_way=(Note(Reason.BOOTSTRAPPING, waiting),), soon_s=1.0)
    founders, spec = founders_of(view), view.spec
    if not all(view.is_written(node.name, node.storage_id) for node in founders):
        # A crash right after the founding, with all pods down, must not look as if there had been none.
        return Outcome(under_way=(Note(Reason.BOOTSTRAPPING, "writing down who founds the cluster"),), soon_s=0.1)
    found = Bootstrap(founders[0].url, founders, spec.shards, spec.replication_factor, spec.min_in_sync)
    said = f"founded the cluster on {', '.join(expected)}"
    return Outcome(
        actions=(found, Tell(Reason.BOOTSTRAPPED, said)),
        under_way=(Note(Reason.BOOTSTRAPPING, f"founding the cluster on {', '.join(expected)}"),),
        soon_s=0.2,
    )


def _foreign_data(view: View) -> tuple[Note, ...]:
    if not view.cluster_id:
        ids = ", ".join(sorted(view.ids_seen))
        return (
            Note(Reason.FOREIGN_DATA, f"the pods' volumes belong to different clusters ({ids}): remove the wrong ones"),
        )
    foreign = sorted(name for name, node in view.answers.items() if node.cluster_id not in ("", view.cluster_id))
    if foreign:
        return (
            Note(
                Reason.FOREIGN_DATA,
                f"the volume of {', '.join(foreign)} belongs to another cluster than {view.cluster_id}: remove it",
            ),
        )
    nodes = view.names.nodes
    founders = [view.answers.get(nodes.member(ordinal)) for ordinal in range(view.spec.replicas)]
    if view.seen.cluster is None and all(node is not None and not node.cluster_id for node in founders):
        return (
            Note(
                Reason.DATA_MISSING,
                f"no volume has data of cluster {view.cluster_id}, which was founded here: bring the volumes back, or "
                "delete the Cluster and create it anew",
            ),
        )
    return ()
