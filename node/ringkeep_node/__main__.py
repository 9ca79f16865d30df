"""Entry point of one node process."""


def main() -> None:
    """Run one node in the foreground until it is stopped."""
    raise SystemExit("ringkeep-node: the node process is not part of this build")


if __name__ == "__main__":
    main()
