"""Write what is generated for Kubernetes: the chart's CRD, the schema of its cluster.spec and the fields in
docs/kubernetes.md from ringkeep_core.crd, and deploy/operator.yaml from the chart.

usage: python tools/manifests.py [--check]

The CRD has one source, the types of the resource. deploy/operator.yaml is what ``helm template`` makes of the chart, for
those without Helm; its first lines name the checksum of the chart, so that a test can tell without Helm that it is old.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it has no types, and its stubs are not worth a dependency

from ringkeep_core.crd import crd
from ringkeep_core.quantities import DURATION_PATTERN, QUANTITY_PATTERN

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "ringkeep"
VALUES_FILE = CHART / "values.schema.json"
CRD_FILE = CHART / "templates" / "crd.yaml"
PLAIN_FILE = ROOT / "deploy" / "operator.yaml"
DOC_FILE = ROOT / "docs" / "kubernetes.md"
NAMESPACE = "ringkeep-system"
HEAD = """\
# The operator with all that it needs, for those without Helm: kubectl apply --server-side -f deploy/operator.yaml
# Made by tools/manifests.py from helm/ringkeep; do not edit. Chart: sha256 {checksum}
---
apiVersion: v1
kind: Namespace
metadata:
  name: {namespace}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def crd_template() -> str:
    """Return the CRD as a template of the chart: installed and upgraded with it, and kept when it is uninstalled."""
    text: str = yaml.safe_dump(crd(), sort_keys=False, width=118, allow_unicode=True)
    if "{{" in text:
        raise ValueError("the CRD has braces that Helm would take for its own")
    first, name, rest = text.partition("metadata:\n  name: clusters.ringkeep.dev\n")
    if not name:
        raise ValueError("the CRD has another name than the chart thinks")
    return (
        "{{- /* Made by tools/manifests.py from ringkeep_core.crd; do not edit. */ -}}\n"
        '{{- if eq (include "ringkeep.ownsCrd" .) "yes" }}\n'
        f"{first}{name}"
        '  labels: {{- include "ringkeep.labels" . | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n"
        "    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
        f"{rest}"
        "{{- end }}\n"
    )


def documented(text: str) -> str:
    """Return docs/kubernetes.md with its tables of fields made anew, between the marks that begin and end them."""
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        begin, end = f"<!-- {part}: made by tools/manifests.py -->\n", f"<!-- {part} ends -->\n"
        before, mark, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not mark or not found:
            raise ValueError(f"docs/kubernetes.md has no place for the fields of {part}")
        head = "| field | type | default | meaning |\n| --- | --- | --- | --- |\n"
        text = f"{before}{mark}{head}{''.join(field_rows(schema[part]))}{end}{after}"
    return text


def field_rows(schema: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a table row for each field of an object, those of objects in it after it."""
    rows = []
    for name, field in schema["properties"].items():
        inner = field.get("items", field)
        default = field.get("default")
        text = str(default).lower() if isinstance(default, bool) else str(default)
        shown = "" if default is None or default in ({}, [], "") else f"`{text}`"
        meaning = field.get("description", "").replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | {_type_of(field)} | {shown} | {meaning} |\n")
        if "properties" in inner:
            rows += field_rows(inner, f"{prefix}{name}{'[]' if 'items' in field else ''}.")
    return rows


def _type_of(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = str(field.get("type", "number or amount"))
    if "items" in field:
        return "list"
    if kind == "integer" and ("minimum" in field or "maximum" in field):
        return f"{field.get('minimum', '')}..{field.get('maximum', '')}"
    if field.get("pattern") in (DURATION_PATTERN, QUANTITY_PATTERN):
        return "duration" if "h)" in field["pattern"] else "amount"
    return {"object": "object", "string": "text", "boolean": "true or false", "integer": "whole number"}.get(kind, kind)


def values_schema(text: str) -> str:
    """Return the schema of the chart's values with that of ``cluster.spec`` made anew: a mistake ends the installation."""
    schema: dict[str, Any] = json.loads(text)
    spec = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    shown = _checked_by_helm(spec)
    # Not a setting: it belongs to `kubectl scale`, and cluster.replicas is where it begins.
    del shown["properties"]["replicas"]
    schema["properties"]["cluster"]["properties"]["spec"] = shown
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _checked_by_helm(field: dict[str, Any]) -> dict[str, Any]:
    """Return a field of the CRD as JSON Schema: no other fields, and null for one that has no default."""
    made = {key: value for key, value in field.items() if not key.startswith("x-") and key not in ("format", "default")}
    if "properties" in field:
        required = field.get("required", ())
        made["properties"] = {
            name: _or_null(inner) if "default" not in inner and name not in required else _checked_by_helm(inner)
            for name, inner in field["properties"].items()
        }
        made["additionalProperties"] = False
    elif "additionalProperties" in field:
        made["additionalProperties"] = _checked_by_helm(field["additionalProperties"])
    if "items" in field:
        made["items"] = _checked_by_helm(field["items"])
    return made


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    made = _checked_by_helm(field)
    if "enum" in made:
        made["enum"] = [*made["enum"], None]
    return {**made, "type": [made["type"], "null"]}


def checksum() -> str:
    """Return the checksum of everything that the plain manifests are made from."""
    digest = hashlib.sha256()
    for file in sorted((*CHART.rglob("*.yaml"), *CHART.rglob("*.tpl"), *CHART.rglob("*.py"))):
        digest.update(f"{file.relative_to(CHART)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def plain_manifests(helm: str) -> str:
    """Return the chart's objects as plain manifests, without what only Helm reads."""
    command = [
        helm,
        "template",
        "ringkeep",
        str(CHART),
        "--namespace",
        NAMESPACE,
        "--no-hooks",
        "--kube-version",
        "1.34.0",
    ]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    documents: list[Any] = [one for one in yaml.safe_load_all(rendered) if one]
    for one in documents:
        labels, annotations = one["metadata"].get("labels", {}), one["metadata"].get("annotations", {})
        labels.pop("helm.sh/chart", None)
        labels["app.kubernetes.io/managed-by"] = "kubectl"
        annotations.pop("helm.sh/resource-policy", None)
        if not annotations:
            one["metadata"].pop("annotations", None)
        if one["kind"] == "Deployment":
            one["spec"]["template"]["metadata"]["labels"].pop("helm.sh/chart", None)
            one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "kubectl"
    head = HEAD.format(checksum=checksum(), namespace=NAMESPACE)
    text: str = yaml.safe_dump_all(documents, sort_keys=False, width=118, allow_unicode=True)
    return f"{head}---\n{text}"


def main(arguments: list[str]) -> int:
    """Write the files, or with --check say whether they are as they should be."""
    checks = arguments == ["--check"]
    wrong = []
    if checks and CRD_FILE.read_text() != crd_template():
        wrong.append(CRD_FILE)
    elif not checks:
        CRD_FILE.write_text(crd_template())
    text = DOC_FILE.read_text()
    if checks and text != documented(text):
        wrong.append(DOC_FILE)
    elif not checks:
        DOC_FILE.write_text(documented(text))
    schema = VALUES_FILE.read_text()
    if checks and schema != values_schema(schema):
        wrong.append(VALUES_FILE)
    elif not checks:
        VALUES_FILE.write_text(values_schema(schema))
    helm = shutil.which("helm")
    if helm is None:
        print("manifests: helm is not there, deploy/operator.yaml was left alone", file=sys.stderr)
    elif checks and PLAIN_FILE.read_text() != plain_manifests(helm):
        wrong.append(PLAIN_FILE)
    elif not checks:
        PLAIN_FILE.write_text(plain_manifests(helm))
    for file in wrong:
        print(f"manifests: {file.relative_to(ROOT)} is old: run tools/manifests.py", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
