"""The local launcher: a cluster of processes on this machine, kept in one directory."""

from __future__ import annotations

from ringkeep.launcher.directory import DEFAULT, ClusterDirectory, ClusterRecord, LauncherError, NodeRecord
from ringkeep.launcher.local import LocalCluster

__all__ = ["DEFAULT", "ClusterDirectory", "ClusterRecord", "LauncherError", "LocalCluster", "NodeRecord"]
