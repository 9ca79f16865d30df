"""Entry point of the operator process."""

import os
import sys

from ringkeep_operator.app import run


def main() -> None:
    """Run the operator in the foreground until it is stopped."""
    sys.exit(run(os.environ))


if __name__ == "__main__":
    main()
