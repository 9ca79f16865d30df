"""Entry point of one node process.

python -m ringkeep_node                            run the node that the environment describes
python -m ringkeep_node recover [STORAGE ...]      begin the next generation on its disk, while it is stopped;
                                                   STORAGE: disks of other nodes that are known to be there
"""

import os
import sys

from ringkeep_node.app import recover, run


def main() -> None:
    """Run one node in the foreground until it is stopped, or begin the next generation on its disk."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["recover"]:
        sys.exit(recover(os.environ, arguments[1:]))
    sys.exit(run(os.environ))


if __name__ == "__main__":
    main()
