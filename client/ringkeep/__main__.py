"""Entry point of the `ringkeep` command."""


def main() -> None:
    """Run the command line."""
    raise SystemExit("ringkeep: the command line is not part of this build")


if __name__ == "__main__":
    main()
