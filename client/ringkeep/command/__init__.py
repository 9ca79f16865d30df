"""The `ringkeep` command: what people and scripts type. Exit codes: 0 ok, 1 failed, 2 usage, 3 cluster unavailable."""
