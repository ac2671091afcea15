{{- define "joulebook.labLabels" -}}
app.kubernetes.io/name: {{ include "joulebook.fullname" . }}-lab
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* What the lab server's deployment is: `lab`, with what older values files say in `collector` and
       `ratesService`. `collects` is false for a values file that wants the rates only. */ -}}
{{- define "joulebook.lab" -}}
{{- $old := .Values.collector | default dict }}
{{- $rates := .Values.ratesService | default dict }}
{{- $lab := mergeOverwrite (deepCopy .Values.lab) (omit $old "enabled" "config" "port" "extraEnv") }}
{{- $_ := set $lab "collects" (or .Values.lab.enabled $old.enabled | default false) }}
{{- $_ := set $lab "enabled" (or $lab.collects $rates.enabled | default false) }}
{{- $_ := set $lab "metricsPort" ($old.port | default .Values.lab.metricsPort) }}
{{- $_ := set $lab "extraEnv" (concat .Values.lab.extraEnv ($old.extraEnv | default list) | default list) }}
{{- $texts := list (list "lab.config" .Values.lab.config) }}
{{- if $old.enabled }}
{{- $texts = append $texts (list "collector.config" ($old.config | default "")) }}
{{- end }}
{{- if $rates.enabled }}
{{- $texts = append $texts (list "ratesService.config" ($rates.config | default "")) }}
{{- $_ := set $lab "extraEnv" (concat $lab.extraEnv ($rates.extraEnv | default list) | default list) }}
{{- $_ := set $lab "nodeSelector" (merge $lab.nodeSelector ($rates.nodeSelector | default dict)) }}
{{- $_ := set $lab "tolerations" (concat $lab.tolerations ($rates.tolerations | default list)) }}
{{- $_ := set $lab "feedTokenSecretName" ($rates.tokenSecret | default $lab.feedTokenSecretName) }}
{{- if not $lab.collects }}
{{- $_ := set $lab "port" ($rates.port | default $lab.port) }}
{{- $_ := set $lab "resources" (mergeOverwrite $lab.resources ($rates.resources | default dict)) }}
{{- end }}
{{- end }}
{{- $read := include "joulebook.labConfig" $texts | trim }}
{{- $_ := set $lab "config" $read }}
{{- $ours := dig "lab" (dict) (fromToml $read) }}
{{- $_ := set $lab "reviews" (and $lab.collects (dig "kubernetes" false $ours)) }}
{{- $_ := set $lab "readsPods" (and $lab.collects (dig "serving" "kubernetes" false (fromToml $read))) }}
{{- toYaml $lab }}
{{- end }}

{{- /* One configuration of several; takes pairs of key and text. A single text stays as it stands.
       Feeds come from the last one that names them, whole; a feed that asks the rates service, which
       is this server itself now, goes. */ -}}
{{- define "joulebook.labConfig" -}}
{{- $all := dict }}
{{- $texts := list }}
{{- range . }}
{{- $text := include "joulebook.toml" . }}
{{- $read := fromToml $text }}
{{- if $read }}
{{- $texts = append $texts $text }}
{{- end }}
{{- $rates := omit (deepCopy (dig "rates" (dict) $all)) }}
{{- range $key, $value := dig "rates" (dict) $read }}
{{- $_ := set $rates $key $value }}
{{- end }}
{{- $all = mergeOverwrite $all (omit $read "rates") }}
{{- $_ := set $all "rates" $rates }}
{{- end }}
{{- if gt (len $texts) 1 }}
{{- $rates := dict }}
{{- range $key, $value := $all.rates }}
{{- if not (and (kindIs "map" $value) (eq (toString (index $value "kind")) "server")) }}
{{- $_ := set $rates $key $value }}
{{- end }}
{{- end }}
{{- set $all "rates" $rates | toToml }}
{{- else }}
{{- first (append $texts "") }}
{{- end }}
{{- end }}

{{- /* Takes (root, lab). */ -}}
{{- define "joulebook.labEnv" -}}
{{- $root := index . 0 }}
{{- $lab := index . 1 -}}
# What the feeds said is kept beside where a ledger would be.
- name: JOULEBOOK_LEDGER_PATH
  value: /var/lib/joulebook/ledger.db
{{- with $lab.feedTokenSecretName }}
- name: JOULEBOOK_RATES_PRICE_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: price, optional: true}
- name: JOULEBOOK_RATES_CARBON_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: carbon, optional: true}
{{- end }}
{{- if $lab.collects }}
- name: JOULEBOOK_LAB_LISTEN
  value: ":{{ $lab.port }}"
{{- with $lab.publicUrl }}
- name: JOULEBOOK_LAB_PUBLIC_URL
  value: {{ . | quote }}
{{- end }}
- name: JOULEBOOK_COLLECT_LISTEN
  value: ":{{ $lab.metricsPort }}"
- name: JOULEBOOK_COLLECT_TOKEN_FILE
  value: /etc/joulebook-token/token
- name: JOULEBOOK_COLLECT_SCHEME
  value: {{ include "joulebook.scheme" $root | lower }}
{{- if eq (include "joulebook.scheme" $root) "HTTPS" }}
# Daemons are found by address, and have one certificate.
- name: JOULEBOOK_COLLECT_SERVER_NAME
  value: {{ printf "%s.%s.svc" (include "joulebook.fullname" $root) $root.Release.Namespace }}
{{- if $lab.caSecretName }}
- name: JOULEBOOK_COLLECT_CA_FILE
  value: /etc/joulebook-ca/ca.crt
{{- end }}
{{- end }}
- name: JOULEBOOK_COLLECT_KUBERNETES
  value: {{ $lab.discovery | quote }}
- name: JOULEBOOK_COLLECT_KUBERNETES_SERVICE
  value: {{ include "joulebook.fullname" $root | quote }}
- name: JOULEBOOK_COLLECT_KUBERNETES_NAMESPACE
  value: {{ $root.Release.Namespace | quote }}
- name: JOULEBOOK_COLLECT_KUBERNETES_PORT_NAME
  value: metrics
- name: JOULEBOOK_COLLECT_URL
  {{- if $lab.urlSecretName }}
  valueFrom:
    secretKeyRef: {name: {{ $lab.urlSecretName }}, key: url}
  {{- else }}
  value: sqlite:///var/lib/joulebook/collected.db
  {{- end }}
{{- end }}
{{- end }}

{{- /* A Service of the lab server's pods; takes (root, name, component, ports). */ -}}
{{- define "joulebook.labService" -}}
{{- $root := index . 0 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ index . 1 | quote }}
  namespace: {{ $root.Release.Namespace | quote }}
  labels:
    {{- include "joulebook.labLabels" $root | nindent 4 }}
    {{- include "joulebook.origin" $root | nindent 4 }}
    app.kubernetes.io/component: {{ index . 2 }}
spec:
  # Not ready means that the database is down: pages say so, and rates come from the feeds.
  publishNotReadyAddresses: true
  selector:
    {{- include "joulebook.labLabels" $root | nindent 4 }}
  ports:
    {{- range index . 3 }}
    - name: {{ .name }}
      port: {{ .port }}
      targetPort: {{ .target }}
      protocol: TCP
    {{- end }}
{{- end }}
