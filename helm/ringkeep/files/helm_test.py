"""Write a document through the Service of the clients, read it back, delete it: ``helm test``."""

import os
import sys
import time
import urllib.error
import urllib.request

PATIENCE_S = 60


def main() -> int:
    """Try until it works or the time is up."""
    url = f"{os.environ['URL']}/v1/users/helm-test/docs/{os.environ['HOSTNAME']}"
    value = os.urandom(16).hex().encode()
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            for method, body, status in (("PUT", value, 201), ("GET", None, 200), ("DELETE", None, 204)):
                request = urllib.request.Request(url, data=body, method=method)
                with urllib.request.urlopen(request, timeout=5) as answer:
                    found = answer.read()
                    if answer.status not in (status, 200) or (method == "GET" and found != value):
                        print(f"{method} {url}: {answer.status} {found!r}", file=sys.stderr)
                        return 1
            print(f"written, read and deleted through {os.environ['URL']}")
            return 0
        except OSError as error:
            last = str(error)
        if time.monotonic() > until:
            print(f"{url}: {last}", file=sys.stderr)
            return 1
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
