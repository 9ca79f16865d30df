"""Entry point of the `ringkeep` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    if sys.platform == "win32":
        raise SystemExit("ringkeep: Windows is not supported; use it inside WSL")
    # Imported here, so that the sentence above comes before modules that only exist on Unix.
    from ringkeep.command.app import run

    raise SystemExit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
