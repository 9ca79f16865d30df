"""A small world for the operator's plan: Kubernetes, pods, disks and the data plane, where actions have effects.

    act(Decision) -> objects, pods, claims, map          tick -> controllers create and end pods, nodes register, copies move

The map is the real one and changes by the real entries, so what the data plane refuses is refused here too. The world
watches the rules that the operator must keep whatever happens (``broken``): volumes of members that have not left, pods
taken one by one, sets that do not shrink below a member, one founding. An operator that is killed in the middle of its
actions is one that carries out only the first few and writes no status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from dataclasses import replace as with_
from typing import Any

from msgspec.structs import replace

from ringkeep_core.electorate import voters_wanted
from ringkeep_core.mapchanges import (
    AddLearner,
    Boot,
    Failover,
    Grow,
    MapChange,
    Move,
    RemoveCopy,
    SetWanted,
    ShardChange,
    ShardChanges,
    Shrink,
    apply,
    bootstrap,
)
from ringkeep_core.mapchanges import Leave as LeaveEntry
from ringkeep_core.placement import NodeState
from ringkeep_core.plans import NodeFacts, plan_of, refusal_of, target_of
from ringkeep_core.resource import ClusterResource, ClusterSpec, ClusterStatus, decode_status, status_json
from ringkeep_core.shardmap import Member, Settings, Shard, ShardMap, Wanted, WantedMember
from ringkeep_core.shardrules import is_leaving
from ringkeep_operator import state
from ringkeep_operator.naming import Group, Names
from ringkeep_operator.plan import plan
from ringkeep_operator.shards import counts_of
from ringkeep_testing.operator_parts import Claim, Disk, Pod

SHARDS = 16
NODES = ("worker-a", "worker-b", "worker-c")


class Crashed(Exception):
    """The operator was killed between two actions."""


@dataclass
class OperatorWorld:
    """See the module."""

    uid: str = "u-demo"
    spec: ClusterSpec = field(default_factory=lambda: ClusterSpec(shards=SHARDS))
    now: float = 1_000_000.0
    generation: int = 1
    status: ClusterStatus = field(default_factory=ClusterStatus)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    foreign: set[tuple[str, str]] = field(default_factory=set)
    pods: dict[str, Pod] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    map: ShardMap | None = None
    voters: set[str] = field(default_factory=set)
    leader: str = ""
    dead_since: dict[str, float] = field(default_factory=dict)
    nodes_gone: set[str] = field(default_factory=set)
    nodes_down: set[str] = field(default_factory=set)
    """Nodes that are NotReady; whether their pods run is not said by that."""
    refusal: state.Refusal | None = None
    refused_at: float = 0.0
    writes: int = 0
    told: list[state.Tell] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    foundings: int = 0
    is_deaf: bool = False
    is_slow_to_be_unready: bool = False
    """Whether the operator cannot reach any node."""
    _views: list[state.Seen] = field(default_factory=list)
    _count: int = 0
    _left_once: set[str] = field(default_factory=set)

    # --- people --------------------------------------------------------------------------------------------------

    @property
    def names(self) -> Names:
        """The names of the cluster's objects."""
        return Names("demo", "ns")

    def want(self, **changes: Any) -> None:
        """Change the spec."""
        self.spec = replace(self.spec, **changes)
        self.generation += 1

    def make_anew(self) -> None:
        """Delete the Cluster and make it again at once: the garbage collector has not begun yet."""
        self.uid, self.status, self.generation = f"{self.uid}+", ClusterStatus(), 1

    def collect(self) -> None:
        """Let the garbage collector take what belonged to former Clusters, the pods of their sets, and owned volumes."""
        self.objects = {
            key: one
            for key, one in self.objects.items()
            if self.uid in {owner["uid"] for owner in one["metadata"].get("ownerReferences", ())}
        }
        self.pods = {}
        self.claims = {name: one for name, one in self.claims.items() if not one.owners or self.uid in one.owners}
        if not self.claims:
            self.map, self.voters, self.leader = None, set(), ""

    def kill(self, name: str) -> None:
        """Delete a pod, as anybody may."""
        if name in self.pods:
            self.pods[name].is_deleting = True

    def lose_disk(self, name: str) -> None:
        """Lose the volume of a pod, and the pod with it."""
        claim = self.claims.get(f"data-{name}")
        if claim is not None:
            claim.phase = "Lost"
        if name in self.pods:
            self.pods[name].hangs = True

    # --- the operator --------------------------------------------------------------------------------------------

    def resource(self) -> ClusterResource:
        """Return the Cluster as the API server has it."""
        return ClusterResource(
            name="demo", namespace="ns", uid=self.uid, generation=self.generation, spec=self.spec, status=self.status
        )

    def seen(self) -> state.Seen:
        """Return what the operator sees now."""
        answering = () if self.is_deaf else tuple(self._answer(name) for name in sorted(self.pods) if self._talks(name))
        return state.Seen(
            resource=self.resource(),
            now=self.now,
            children=deepcopy(self.objects),
            foreign=frozenset(self.foreign),
            pods=tuple(self._seen_pod(name, pod) for name, pod in sorted(self.pods.items())),
            volumes=tuple(self._seen_volume(name, claim) for name, claim in sorted(self.claims.items())),
            zones={node: f"zone-{node[-1]}" for node in NODES},
            nodes_gone=frozenset(self.nodes_gone),
            nodes_down=frozenset(self.nodes_down),
            answering=answering,
            cluster=self._cluster() if self.map is not None and any(node.cluster_id for node in answering) else None,
            refusal=self.refusal if self.now - self.refused_at < 5 else None,
        )

    def pass_(self, *, killed_after: int | None = None, passes_late: int = 0) -> state.Decision:
        """Look, decide and act once.

        ``killed_after`` so many actions the operator is killed and writes no status. ``passes_late``: what it knows of
        Kubernetes and the map is as old as so many passes ago, as from a cache or a node that lags behind.
        """
        seen = self.seen()
        self._views = [*self._views[-5:], seen]
        if passes_late:
            old = self._views[-1 - min(passes_late, len(self._views) - 1)]
            seen = with_(
                seen, pods=old.pods, volumes=old.volumes, children=old.children, cluster=old.cluster or seen.cluster
            )
        decision = plan(seen)
        for number, action in enumerate(decision.actions):
            if number == killed_after:
                return decision
            if not self.act(action):
                killed_after = None
                break
        if killed_after is None:
            written = decode_status(status_json(decision.status))
            self.writes += written != self.status
            self.status = written
            if self.is_ready() and not passes_late:
                self._check_ready()
        return decision

    def run(self, seconds: float) -> None:
        """Let time pass, with a pass each second."""
        end = self.now + seconds
        while self.now < end:
            self.pass_()
            self.tick()

    def settle(self, limit_s: float = 240.0) -> bool:
        """Let time pass until the cluster is Ready, or the limit; return whether it is."""
        end = self.now + limit_s
        while self.now < end:
            self.pass_()
            if self.is_ready():
                return True
            self.tick()
        return False

    def is_ready(self) -> bool:
        """Return whether the status says Ready, and of this generation."""
        ready = self.status.condition("Ready")
        return ready is not None and ready.status == "True" and ready.observed_generation == self.generation

    def condition(self, type_: str) -> tuple[str, str]:
        """Return (status, reason) of a condition."""
        condition = self.status.condition(type_)
        assert condition is not None
        return condition.status, condition.reason

    # --- actions -------------------------------------------------------------------------------------------------

    def act(self, action: state.Action) -> bool:
        """Carry out an action; False if it failed, and what follows it is not carried out."""
        match action:
            case state.Tell():
                self.told.append(action)
                return True
            case state.Apply():
                self.writes += 1
                self._apply(json.loads(json.dumps(action.manifest)))
                return True
            case state.CreateSecret():
                self.writes += 1
                self.objects.setdefault(("Secret", str(action.manifest["metadata"]["name"])), dict(action.manifest))  # type: ignore[index]
                return True
            case state.Delete():
                self.writes += 1
                return self._delete(action)
            case state.Bootstrap():
                return self._bootstrap(action)
            case state.SetWanted():
                return self._set_wanted(action)
            case state.Leave():
                return self._leave(action)
            case state.TransferLeader():
                return self._transfer()

    def _check_ready(self) -> None:
        """Ready is never early: judge it by what is true here, not by what was seen."""
        spec, held = self.spec, self.map
        assert held is not None
        expected = {self.names.nodes.member(n) for n in range(spec.replicas)}
        expected |= {self.names.gateways.member(n) for n in range(spec.gateways)}
        alive = {held.members[storage].name for storage in self._alive()}
        wanted = {name for name, want in held.wanted.members.items() if not want.draining}
        settings, full = held.wanted.settings, held.copies_wanted()
        checks = {
            "others than the expected members live": alive == expected,
            "others than the expected pods are there": set(self.pods) == expected,
            "others than the expected members are wanted": wanted == expected == set(held.wanted.members),
            "a member has not left": set(held.by_name) == expected,
            "a shard lacks copies, or has too many": all(
                len(shard.in_sync) == full and not shard.learners for shard in held.shards
            ),
            "a plan is left": not plan_of(held, held.wanted, self._facts()).steps,
            "a pod has another image": {pod.image for pod in self.pods.values()} == {spec.image},
            "the settings are others": (settings.replication_factor, settings.min_in_sync)
            == (spec.replication_factor, spec.min_in_sync),
        }
        self.broken += [f"Ready, and {what}" for what, is_so in checks.items() if not is_so]

    def _apply(self, manifest: dict[str, Any]) -> None:
        key = (manifest["kind"], manifest["metadata"]["name"])
        if key in self.foreign:
            self.broken.append(f"{key} is not ours, and was applied")
        if key[0] == "PersistentVolumeClaim":
            claim = self.claims[key[1]]
            if "spec" in manifest:
                claim.requested = 1 << 31
            else:
                owners = manifest["metadata"].get("ownerReferences", [])
                claim.owners = frozenset(owner["uid"] for owner in owners)
            return
        old = self.objects.get(key)
        if key[0] == "StatefulSet":
            self._check_shrink(key[1], manifest, old)
        generation = (
            1
            if old is None
            else old["metadata"]["generation"] + (old["spec"] != manifest.get("spec") if "spec" in old else 0)
        )
        manifest["metadata"] |= {"generation": generation, "uid": f"u-{key[0]}-{key[1]}"}
        if key[0] == "StatefulSet":
            manifest["status"] = dict(old["status"]) if old is not None else {}
        self.objects[key] = manifest

    def _check_shrink(self, set_name: str, manifest: Mapping[str, Any], old: Mapping[str, Any] | None) -> None:
        if self.map is None or self.spec.suspend:
            return
        group = Group("", set_name)
        for name in self.map.wanted.members:
            ordinal = group.ordinal(name)
            if ordinal is not None and ordinal >= manifest["spec"]["replicas"]:
                self.broken.append(f"{set_name} shrinks to {manifest['spec']['replicas']}: {name} has not left")

    def _delete(self, action: state.Delete) -> bool:
        target = action.target
        if target.kind == "Pod":
            pod = self.pods.get(target.name)
            if pod is None or pod.uid != target.uid:
                return False
            if self._talks(target.name) and self._is_member(pod):
                self.taken.add(target.name)
                down = {name for name in sorted(self.taken) if not self._is_back(name)}
                if len(down) > 1:
                    self.broken.append(f"{', '.join(sorted(down))} are down by the operator's hand")
            pod.is_deleting = True
            if action.grace_s == 0:
                del self.pods[target.name]
            return True
        if target.kind == "PersistentVolumeClaim":
            claim = self.claims.get(target.name)
            if claim is None or claim.uid != target.uid:
                return False
            is_lost = claim.phase == "Lost" or claim.node in self.nodes_gone
            left = self.map.left if self.map is not None else ()
            if claim.disk.listed and claim.disk.storage not in left and not is_lost:
                self.broken.append(f"{target.name} is deleted, and {claim.disk.storage} has not left")
            claim.is_deleting = True
            return True
        self.objects.pop((target.kind, target.name), None)
        return True

    def _is_member(self, pod: Pod) -> bool:
        return (
            self.map is not None
            and self.map.is_registered(pod.disk.storage, pod.boot)
            and any(shard.is_complete(pod.disk.storage) for shard in self.map.shards)
        )

    def _is_back(self, name: str) -> bool:
        pod = self.pods.get(name)
        back = pod is not None and not pod.is_deleting and self._talks(name) and self._registered(pod)
        if back:
            self.taken.discard(name)
        return back

    def _bootstrap(self, action: state.Bootstrap) -> bool:
        if self.map is not None or any(claim.disk.cluster_id for claim in self.claims.values()):
            self.broken.append("founded a second time")
            return False
        self.foundings += 1
        members = [self._member(node.name, node.storage_id, self.pods[node.name].boot) for node in action.members]
        self.map = bootstrap(
            cluster_id="c" * 16,
            members=members,
            shards=action.shards,
            settings=Settings(replication_factor=action.replication_factor, min_in_sync=action.min_in_sync),
        )
        for node in action.members:
            self.pods[node.name].disk.cluster_id = self.map.cluster_id
            self.pods[node.name].disk.listed = True
        self.voters = {node.storage_id for node in action.members[: voters_wanted(len(action.members))]}
        self._elect()
        return True

    def _set_wanted(self, action: state.SetWanted) -> bool:
        assert self.map is not None
        body: Any = action.body
        present = self.map.wanted
        members = {name: WantedMember(**want) for name, want in body["members"].items()}
        settings = replace(present.settings, **body["settings"])
        wanted = Wanted(body["revision"] + 1, members, settings, body["target_digest"], body["target_version"])
        if body["revision"] != present.revision or not self.leader:
            return False
        refusal = refusal_of(self.map, wanted, self._facts(), sorted(self.voters))
        if refusal is not None:
            self.refusal, self.refused_at = state.Refusal(action.asked, refusal.code, refusal.detail), self.now
            return False
        self._commit(SetWanted(wanted, "test"))
        for pod_name, pod in self.pods.items():
            if pod_name in members:
                pod.disk.listed = True
        return True

    def _leave(self, action: state.Leave) -> bool:
        assert self.map is not None
        if not self.leader:
            return False
        return self._commit(LeaveEntry(action.storage_id, "test"))

    def _transfer(self) -> bool:
        assert self.map is not None
        others = [s for s in sorted(self.voters) if s in self._alive() and self.map.members[s].name != self.leader]
        if not others:
            return False
        self.leader = self.map.members[others[0]].name
        return True

    def _commit(self, change: MapChange) -> bool:
        assert self.map is not None
        applied = apply(self.map, self.map.version + 1, change, voters=self.voters)
        self.map = applied.map
        return applied.outcomes == (None,) * len(applied.outcomes)

    # --- time ----------------------------------------------------------------------------------------------------

    def tick(self, seconds: float = 1.0) -> None:
        """Let time pass: controllers, kubelets, nodes and the leader do what is theirs."""
        self.now += seconds
        self._kubernetes()
        if self.map is not None:
            self._elect()
        for name in sorted(self.pods):
            self._node(name, self.pods[name])
        if self.map is not None:
            self._data_plane(self.map)
        for name in sorted(self.taken):
            self._is_back(name)

    def _uid(self) -> str:
        self._count += 1
        return f"{self._count:016x}"

    def _kubernetes(self) -> None:
        for name, pod in list(self.pods.items()):
            if pod.is_deleting and pod.node not in self.nodes_gone:
                del self.pods[name]
        for name, claim in list(self.claims.items()):
            if claim.is_deleting and name.removeprefix("data-") not in self.pods:
                del self.claims[name]
        for (kind, set_name), manifest in self.objects.items():
            if kind == "StatefulSet":
                self._controller(set_name, manifest)

    def _controller(self, set_name: str, manifest: dict[str, Any]) -> None:
        spec, group = manifest["spec"], Group("", set_name)
        revision = f"{set_name}-{hash(json.dumps(spec['template'], sort_keys=True)) & 0xFFFFFFFF:x}"
        manifest["status"] = {
            "observedGeneration": manifest["metadata"]["generation"],
            "updateRevision": revision,
            "replicas": spec["replicas"],
        }
        for name in list(self.pods):
            ordinal = group.ordinal(name)
            if ordinal is not None and ordinal >= spec["replicas"]:
                self.pods[name].is_deleting = True
        has_volumes = "volumeClaimTemplates" in spec
        free = [node for node in NODES if node not in self.nodes_gone]
        for ordinal in range(spec["replicas"]):
            name = group.member(ordinal)
            claim = self.claims.get(f"data-{name}") if has_volumes else None
            if name in self.pods or (claim is not None and claim.is_deleting):
                continue
            if has_volumes and claim is None:
                claim = self.claims[f"data-{name}"] = Claim(self._uid(), Disk(self._uid()))
            if claim is not None and claim.phase == "Lost":
                continue
            disk = claim.disk if claim is not None else Disk(self._uid())
            image = spec["template"]["spec"]["containers"][0]["image"]
            self.pods[name] = Pod(self._uid(), revision, image, free[ordinal % len(free)], disk, self.now)

    def _node(self, name: str, pod: Pod) -> None:
        """Start, and register: as somebody new, as who was there before, or with an empty disk if that one has left."""
        if not self._talks(name) or pod.is_deleting or self.now - pod.since < 1:
            return
        if not pod.boot:
            pod.boot = self._uid()
        if self.map is None or not self.leader:
            return
        if pod.disk.storage in self.map.left:
            if pod.disk.storage not in self._left_once:
                self._left_once.add(pod.disk.storage)  # It is told, and ends.
                return
            pod.disk.storage, pod.disk.cluster_id, pod.disk.listed = self._uid(), "", False
            pod.boot = self._uid()
        if not self._registered(pod):
            count = self._count = self._count + 1
            pod.boot = f"{count:016x}"
            entry = Boot(
                name, pod.disk.storage, pod.boot, count, f"http://{name}", f"{name}:7400", live=tuple(self._alive())
            )
            if self._commit(entry):
                pod.disk.cluster_id = self.map.cluster_id
                pod.disk.listed = name in self.map.wanted.members

    def _member(self, name: str, storage: str, boot: str) -> Member:
        self._count += 1
        return Member(storage, name, boot, self._count, f"http://{name}", f"{name}:7400", "", 0)

    def _talks(self, name: str) -> bool:
        pod = self.pods[name]
        return pod.starts and not pod.hangs and pod.node not in self.nodes_gone and self.now - pod.since >= 1

    def is_member(self, name: str) -> bool:
        """Return whether a pod's node is registered in the map."""
        return self._registered(self.pods.get(name))

    def living(self) -> set[str]:
        """Return the disks of the members that live."""
        return self._alive()

    def _registered(self, pod: Pod | None) -> bool:
        return pod is not None and self.map is not None and self.map.is_registered(pod.disk.storage, pod.boot)

    def _alive(self) -> set[str]:
        if self.map is None:
            return set()
        return {
            pod.disk.storage
            for name, pod in self.pods.items()
            if self._registered(pod) and self._talks(name) and not pod.is_deleting
        }

    def _facts(self) -> dict[str, NodeFacts]:
        assert self.map is not None
        alive, facts = self._alive(), {}
        for storage, member in self.map.members.items():
            dead_s = self.now - self.dead_since.get(member.name, self.now)
            dead = NodeState.DEAD if dead_s >= self.map.wanted.settings.grace_s else NodeState.DEAD_IN_GRACE
            facts[member.name] = NodeFacts(NodeState.ALIVE if storage in alive else dead)
        return facts

    def _elect(self) -> None:
        assert self.map is not None
        # A voter votes as soon as it runs: its registration needs the leader that it helps to elect.
        runs = {pod.disk.storage for name, pod in self.pods.items() if self._talks(name) and not pod.is_deleting}
        names = {self.map.members[s].name for s in self.voters if s in runs and s in self.map.members}
        if len(names) <= len(self.voters) // 2:
            self.leader = ""
        elif self.leader not in names:
            self.leader = min(names)

    def _data_plane(self, before: ShardMap) -> None:
        """The leader changes voters one at a time, fails over and moves copies, one change of each shard at a time."""
        alive = self._alive()
        for storage, member in before.members.items():
            if storage in alive:
                self.dead_since.pop(member.name, None)
            else:
                self.dead_since.setdefault(member.name, self.now)
        self._elect()
        if not self.leader:
            return
        self._revise_voters(before, alive)
        target = target_of(before, before.wanted, self._facts())
        changes = [
            change
            for number, (shard, goal) in enumerate(zip(before.shards, target.shards, strict=True))
            if (change := self._shard_change(before, number, shard, [*goal.copies], goal.primary, alive)) is not None
        ]
        if changes:
            self._commit(ShardChanges(tuple(changes), "test"))

    def _revise_voters(self, held: ShardMap, alive: set[str]) -> None:
        # Members of weight 0 do not vote beside others, as in machines/electorate.
        staying = [
            member
            for storage, member in held.members.items()
            if storage in alive
            and not is_leaving(held.wanted, member.name)
            and held.wanted.members[member.name].weight > 0
        ]
        best = {m.storage for m in sorted(staying, key=lambda m: (m.storage not in self.voters, m.name))}
        ranked = sorted(best, key=lambda s: (s not in self.voters, held.members[s].name))
        wanted = set(ranked[: voters_wanted(len(staying))])
        gone = sorted(self.voters - wanted, key=lambda s: s in alive)
        if gone and len(wanted) >= 1:
            self.voters.discard(gone[0])
        if wanted - self.voters:
            self.voters.add(min(wanted - self.voters))
        self._elect()

    def _shard_change(
        self, held: ShardMap, number: int, shard: Shard, copies: list[str], primary: str | None, alive: set[str]
    ) -> ShardChange | None:
        by_name = held.by_name
        revision = shard.revision
        in_sync = [copy.storage for copy in shard.in_sync]
        living = [storage for storage in in_sync if storage in alive]
        if shard.primary.storage not in alive or held.members[shard.primary.storage].boot != shard.primary.boot:
            return Failover(number, revision, living[0], tuple(alive)) if living else None
        if len(living) < len(in_sync):
            return Shrink(number, revision, tuple(storage for storage in in_sync if storage not in alive))
        for copy in shard.learners:
            member = held.members[copy.storage]
            if copy.storage in alive and not (is_leaving(held.wanted, member.name) and len(in_sync) >= shard.need):
                boot = shard.primary.boot
                return Grow(number, revision, copy.storage, member.boot, copy.added, shard.epoch, boot)
        for name in copies:
            if name in by_name and shard.copy_of(by_name[name].storage) is None:
                return AddLearner(number, revision, by_name[name].storage)
        goal = by_name[primary].storage if primary is not None and primary in by_name else ""
        if goal and goal != shard.primary.storage and goal in living:
            return Move(number, revision, goal)
        for copy in (*shard.learners, *shard.in_sync):
            if held.members[copy.storage].name not in copies and copy.storage != shard.primary.storage:
                return RemoveCopy(number, revision, copy.storage, copy.added)
        return None

    # --- what is seen --------------------------------------------------------------------------------------------

    def _answer(self, name: str) -> state.SeenNode:
        disk = self.pods[name].disk
        left = self.map is not None and disk.storage in self.map.left
        return state.SeenNode(
            name=name,
            storage_id=disk.storage,
            peer=f"{name}:7400",
            url=f"http://{name}:8080",
            cluster_id=disk.cluster_id,
            has_left=left,
        )

    def _seen_pod(self, name: str, pod: Pod) -> state.SeenPod:
        runs = pod.starts and self.now - pod.since >= 1
        is_ready = runs and pod.node not in self.nodes_gone and self._registered(pod) and not self._has_given_up(name)
        return state.SeenPod(
            name=name,
            uid=pod.uid,
            version="1",
            ordinal=int(name.rpartition("-")[2]),
            node=pod.node,
            phase="Running" if runs else "Pending",
            is_ready=is_ready and not pod.is_deleting,
            is_deleting=pod.is_deleting,
            revision=pod.revision,
            waiting="" if pod.starts else "ErrImagePull",
            since=pod.since,
        )

    def _has_given_up(self, name: str) -> bool:
        want = self.map.wanted.members.get(name) if self.map is not None else None
        if self.map is None or want is None or not want.draining or self.is_slow_to_be_unready:
            return False
        return not any(shard.copy_of(self.pods[name].disk.storage) for shard in self.map.shards)

    def _seen_volume(self, name: str, claim: Claim) -> state.SeenVolume:
        return state.SeenVolume(
            name=name,
            uid=claim.uid,
            version="1",
            ordinal=int(name.rpartition("-")[2]),
            phase=claim.phase,
            is_deleting=claim.is_deleting,
            node=claim.node,
            requested=claim.requested,
            owners=claim.owners,
        )

    def _cluster(self) -> state.SeenCluster:
        assert self.map is not None
        held, alive = self.map, self._alive()
        members = tuple(self._seen_member(held, member, alive) for member in held.members.values())
        counts = counts_of(held, members)
        made = plan_of(held, held.wanted, self._facts())
        return state.SeenCluster(
            shard_map=held,
            members=members,
            leader=self.leader,
            term=1 if self.leader else 0,
            plan=state.SeenPlan(copies=len(made.steps)),
            shards_ok=counts.ok,
            shards_moving=counts.moving,
            shards_under_replicated=counts.under_replicated,
            shards_unavailable=counts.unavailable,
        )

    def _seen_member(self, held: ShardMap, member: Member, alive: set[str]) -> state.SeenMember:
        want = held.wanted.members.get(member.name)
        lives = "alive" if want is not None else "joining"
        return state.SeenMember(
            name=member.name,
            state=lives if member.storage in alive else "dead",
            storage_id=member.storage,
            boot_id=member.boot,
            zone=member.zone,
            weight=want.weight if want is not None else 0.0,
            draining=want is not None and want.draining,
            copies=sum(1 for shard in held.shards if shard.copy_of(member.storage)),
            primaries=sum(1 for shard in held.shards if shard.primary.storage == member.storage),
            since=self.dead_since.get(member.name, self.now - 10),
        )
