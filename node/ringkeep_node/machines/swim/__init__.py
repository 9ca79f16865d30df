"""Who is a member and who is alive: SWIM with Lifeguard's corrections, as a pure machine (``Swim``)."""

from ringkeep_node.machines.swim.machine import Swim, SwimStep
from ringkeep_node.machines.swim.members import (
    Address,
    Evidence,
    MemberChanged,
    MemberIdentity,
    MemberState,
    MemberView,
    RegisteredMember,
    Testimony,
)
from ringkeep_node.machines.swim.messages import OpenSeal, Seal
from ringkeep_node.machines.swim.timing import SwimSettings

__all__ = [
    "Address",
    "Evidence",
    "MemberChanged",
    "MemberIdentity",
    "MemberState",
    "MemberView",
    "OpenSeal",
    "RegisteredMember",
    "Seal",
    "Swim",
    "SwimSettings",
    "SwimStep",
    "Testimony",
]
