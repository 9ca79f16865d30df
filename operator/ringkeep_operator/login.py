"""The same account for kopf as for our own client."""

from __future__ import annotations

from pathlib import Path

import kopf
from kubernetes.aio.client import Configuration

from ringkeep_operator.kube import CA_FILE, TOKEN_FILE


def connection(where: Configuration) -> kopf.ConnectionInfo:
    """Return how kopf reaches the API server; asked again when the API server no longer takes the token."""
    token = str(where.api_key.get("BearerToken", "")).removeprefix("bearer ").removeprefix("Bearer ")
    if where.ssl_ca_cert == CA_FILE:
        # The kubelet renews the file about once an hour; what was read at the start is old by then.
        token = Path(TOKEN_FILE).read_text().strip()
    return kopf.ConnectionInfo(
        server=str(where.host),
        ca_path=where.ssl_ca_cert or None,
        insecure=not where.verify_ssl,
        scheme="Bearer" if token else None,
        token=token or None,
        certificate_path=where.cert_file or None,
        private_key_path=where.key_file or None,
    )
