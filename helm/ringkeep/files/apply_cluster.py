"""Apply the Cluster of the values, as a hook of the chart: a release cannot hold a kind that it installs itself.

The number of replicas of a Cluster that exists is left as it is: it belongs to ``kubectl scale`` and to autoscalers.
Source: Kubernetes API concepts, "Server-side apply".
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
PATIENCE_S = 60
REFUSED = 2
"""Exit code for a spec that the API server does not take: the Job does not try again."""


def ask(method: str, path: str, body: bytes | None = None) -> dict:
    """Ask the API server; 404 is an empty answer."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT_HTTPS"]
    with open(f"{ACCOUNT}/token") as file:
        token = file.read()
    request = urllib.request.Request(
        f"https://{f'[{host}]' if ':' in host else host}:{port}{path}",
        data=body,
        method=method,
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/apply-patch+yaml"},
    )
    context = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404 and method == "GET":
            return {}
        raise


def message_of(said: str) -> str:
    """Return the sentence in a refusal, or the refusal as it is."""
    try:
        return json.loads(said)["message"]
    except (ValueError, KeyError, TypeError):
        return said


def main() -> int:
    """Apply it, waiting a while for the kind to be served."""
    wanted = json.loads(os.environ["CLUSTER"])
    name, namespace = wanted["metadata"]["name"], wanted["metadata"]["namespace"]
    path = f"/apis/ringkeep.dev/v1alpha1/namespaces/{namespace}/clusters/{name}"
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            live = ask("GET", path)
            # A change between this look and the write is a conflict then, and looked at again: a scale is never undone.
            wanted["metadata"].pop("resourceVersion", None)
            if live:
                wanted["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
            if "replicas" in live.get("spec", {}):
                wanted["spec"]["replicas"] = live["spec"]["replicas"]
            ask("PATCH", f"{path}?fieldManager=helm&force=true", json.dumps(wanted).encode())
            print(f"cluster {namespace}/{name}: {wanted['spec'].get('replicas')} replicas")
            return 0
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            # A field that the kind does not know is answered with 500 (kubernetes #122480).
            if error.code in (400, 401, 403, 422) or "field not declared in schema" in said:
                print(f"cluster {namespace}/{name} was refused: {message_of(said)}", file=sys.stderr)
                return REFUSED
            last = f"{error.code}: {said}"
        except OSError as error:
            last = str(error)
        if time.monotonic() > until:
            print(f"cluster {namespace}/{name} could not be applied: {last}", file=sys.stderr)
            return 1
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
