{{- define "joulebook.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "joulebook.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if contains (include "joulebook.name" .) .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "joulebook.name" .) | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "joulebook.selectorLabels" -}}
app.kubernetes.io/name: {{ include "joulebook.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Labels that say where an object comes from, and select nothing. */ -}}
{{- define "joulebook.origin" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "joulebook.labels" -}}
{{ include "joulebook.selectorLabels" . }}
{{ include "joulebook.origin" . }}
{{- end }}

{{- define "joulebook.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "joulebook.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "joulebook.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- /* HTTP or HTTPS: what probes, monitors and the test speak. */ -}}
{{- define "joulebook.scheme" -}}
{{- .Values.web.scheme | default (ternary "HTTPS" "HTTP" (ne .Values.web.tlsSecretName "")) }}
{{- end }}

{{- define "joulebook.guarded" -}}
{{- if or .Values.web.configSecretName .Values.web.tlsSecretName .Values.web.users }}true{{ end }}
{{- end }}

{{- /* Rights of pods that need nothing of the node. */ -}}
{{- define "joulebook.unprivileged" -}}
runAsUser: 65532
runAsGroup: 65532
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* A list of EnvVar of ours, less those that the second list has, and that list; takes (text,
       list). A name that stands twice is refused by servers that merge such lists. */ -}}
{{- define "joulebook.withExtra" -}}
{{- $extra := index . 1 }}
{{- $theirs := dict }}
{{- range $extra }}
{{- $_ := set $theirs .name true }}
{{- end }}
{{- $all := list }}
{{- range index . 0 | fromYamlArray }}
{{- if not (hasKey $theirs .name) }}
{{- $all = append $all . }}
{{- end }}
{{- end }}
{{- concat $all $extra | toYaml }}
{{- end }}

{{- /* Where pods go that need nothing of a node; takes (root, values). */ -}}
{{- define "joulebook.placement" -}}
{{- $values := index . 1 -}}
nodeSelector:
  {{- dict "kubernetes.io/os" "linux" | merge (default dict $values.nodeSelector) | toYaml | nindent 2 }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* What ServiceMonitor and PodMonitor have in common; takes (root, values). */ -}}
{{- define "joulebook.endpoint" -}}
{{- $root := index . 0 }}
{{- $values := index . 1 -}}
- port: metrics
  path: /metrics
  scheme: {{ include "joulebook.scheme" $root | lower }}
  interval: {{ $values.interval }}
  scrapeTimeout: {{ $values.scrapeTimeout }}
  # `node` and `cluster` are the daemon's own labels.
  honorLabels: true
  # A node's daemon is one target, whichever pod it is: its counters go on in the next one.
  relabelings:
    - sourceLabels: [__meta_kubernetes_pod_node_name]
      targetLabel: instance
    - action: labeldrop
      regex: pod|container
    {{- with $values.relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.tlsConfig }}
  tlsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.basicAuth }}
  basicAuth:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* A configuration as it stands, if it is TOML at all: a daemon that cannot read its own crashes
       again and again. Takes (key, text). */ -}}
{{- define "joulebook.toml" -}}
{{- $read := index . 1 | fromToml }}
{{- if hasKey $read "Error" }}
{{- fail (printf "%s: expected TOML, as in joulebook.toml: %s" (index . 0) $read.Error) }}
{{- end }}
{{- index . 1 }}
{{- end }}

{{- define "joulebook.testLabels" -}}
app.kubernetes.io/name: {{ include "joulebook.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}
