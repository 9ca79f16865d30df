"""Entry point of one node process."""

import os
import sys

from ringkeep_node.app import run


def main() -> None:
    """Run one node in the foreground until it is stopped."""
    sys.exit(run(os.environ))


if __name__ == "__main__":
    main()
