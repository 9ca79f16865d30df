"""Ringkeep for its users: the client library, the `ringkeep` command and the local launcher."""
