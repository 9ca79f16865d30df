{{- define "ringkeep.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "ringkeep.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "ringkeep.name" .) .Release.Name -}}
{{- printf "%s-operator" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s-operator" .Release.Name (include "ringkeep.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* The name of what has no namespace: two releases of one name, in two namespaces, must not want the same. */ -}}
{{- define "ringkeep.clusterwide" -}}
{{- printf "%s:%s" (include "ringkeep.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "ringkeep.selector" -}}
app.kubernetes.io/name: {{ include "ringkeep.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- /* Labels of an object, and more of its own: (list $ $more). No key may stand there twice: ours win, then its own. */ -}}
{{- define "ringkeep.labelsWith" -}}
{{- $root := index . 0 -}}
{{- $ours := fromYaml (include "ringkeep.selector" $root) -}}
{{- $_ := set $ours "app.kubernetes.io/version" $root.Chart.AppVersion -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $ours "app.kubernetes.io/part-of" "ringkeep" -}}
{{- $_ := set $ours "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
{{- merge $ours (deepCopy (index . 1)) (deepCopy $root.Values.commonLabels) | toYaml -}}
{{- end -}}

{{- define "ringkeep.labels" -}}
{{- include "ringkeep.labelsWith" (list . dict) -}}
{{- end -}}

{{- define "ringkeep.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "ringkeep.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* An image: (list $ $image). The registry is a value, the version the chart's unless said otherwise. */ -}}
{{- define "ringkeep.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest -}}@{{ $image.digest }}{{- else -}}:{{ default $root.Chart.AppVersion $image.tag }}{{- end -}}
{{- end -}}

{{- /* The name of the chart's Cluster. What the operator could not act on ends the installation with a sentence. */ -}}
{{- define "ringkeep.clusterName" -}}
{{- $name := default .Release.Name .Values.cluster.name -}}
{{- if or (gt (len $name) 44) (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name)) -}}
{{- fail (printf "a Cluster cannot be called %s: set cluster.name to a lower-case label of at most 44 characters that begins with a letter" $name) -}}
{{- end -}}
{{- $full := include "ringkeep.fullname" . -}}
{{- $taken := list $full (include "ringkeep.serviceAccount" .) (printf "%s-cluster" $full) -}}
{{- range (list $name (printf "%s-nodes" $name) (printf "%s-gateway" $name)) -}}
{{- if has . $taken -}}
{{- fail (printf "%s is the name of an object of the operator, and the Cluster needs it for one of its own: set cluster.name to another" .) -}}
{{- end -}}
{{- end -}}
{{- $watched := include "ringkeep.namespaces" . -}}
{{- if and $watched (not (has .Release.Namespace (splitList "," $watched))) -}}
{{- fail (printf "the operator looks after %s alone, and the Cluster would be in %s: add that to watchNamespaces, or leave cluster.create off" $watched .Release.Namespace) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- /* The operator's pods; what people choose wins. */ -}}
{{- define "ringkeep.podAnnotations" -}}
{{- $ours := dict "kubectl.kubernetes.io/default-container" "operator" -}}
{{- if .Values.metrics.annotations -}}
{{- $_ := merge $ours (dict "prometheus.io/scrape" "true" "prometheus.io/port" "8081" "prometheus.io/path" "/metrics") -}}
{{- end -}}
{{- merge (deepCopy .Values.podAnnotations) $ours | toYaml -}}
{{- end -}}

{{- /* Where every pod of the chart may run, and with which registry's Secrets. */ -}}
{{- define "ringkeep.scheduling" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The labels of the pods of hook and test: never those that select the operator's. (list $ component) */ -}}
{{- define "ringkeep.helperLabels" -}}
{{- $root := index . 0 -}}
{{- $ours := dict "app.kubernetes.io/name" (include "ringkeep.name" $root) "app.kubernetes.io/instance" $root.Release.Name -}}
{{- $_ := set $ours "app.kubernetes.io/component" (index . 1) -}}
{{- merge $ours (deepCopy $root.Values.podLabels) (deepCopy $root.Values.commonLabels) | toYaml -}}
{{- end -}}

{{- /* Another release's operator that looks after all namespaces: two of them would act on the same Clusters. */ -}}
{{- define "ringkeep.otherOperator" -}}
{{- if not (include "ringkeep.namespaces" .) -}}
{{- range (lookup "rbac.authorization.k8s.io/v1" "ClusterRoleBinding" "" "").items -}}
{{- $labels := default (dict) .metadata.labels -}}
{{- $annotations := default (dict) .metadata.annotations -}}
{{- if and (eq (dig "app.kubernetes.io/part-of" "" $labels) "ringkeep") (eq (dig "ringkeep.dev/watches" "" $annotations) "all") -}}
{{- $owner := printf "%s/%s" (dig "meta.helm.sh/release-namespace" "" $annotations) (dig "meta.helm.sh/release-name" "" $annotations) -}}
{{- if ne $owner (printf "%s/%s" $.Release.Namespace $.Release.Name) -}}{{ $owner }} {{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What the operator looks after: the namespaces of the release, of the values, or all. */ -}}
{{- define "ringkeep.namespaces" -}}
{{- if .Values.rbac.namespaced -}}
{{- join "," (default (list .Release.Namespace) .Values.watchNamespaces) -}}
{{- else -}}
{{- join "," .Values.watchNamespaces -}}
{{- end -}}
{{- end -}}

{{- define "ringkeep.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "ringkeep.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* What the operator does with the objects of a namespace: no wildcard, no reading of foreign Secrets by list. */ -}}
{{- define "ringkeep.rules" -}}
- apiGroups: [ringkeep.dev]
  resources: [clusters]
  verbs: [get, list, watch]
- apiGroups: [ringkeep.dev]
  resources: [clusters/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services, serviceaccounts, configmaps]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, list, create, patch, delete]
{{- end -}}

{{- /* Whether this release brings the CRD. One that another release brought, or left behind, cannot be taken over here. */ -}}
{{- define "ringkeep.ownsCrd" -}}
{{- if .Values.crds.install -}}
{{- $live := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "clusters.ringkeep.dev" -}}
{{- $owner := dig "metadata" "annotations" "meta.helm.sh/release-name" "" $live -}}
{{- $namespace := dig "metadata" "annotations" "meta.helm.sh/release-namespace" "" $live -}}
{{- if or (not $live) (and (eq $owner .Release.Name) (eq $namespace .Release.Namespace)) -}}yes{{- else -}}no{{- end -}}
{{- else -}}no{{- end -}}
{{- end -}}
