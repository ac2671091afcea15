{{- /* What the daemon is reported, and what it sees of its node: environment, mounts, volumes. */ -}}

{{- define "joulebook.env" -}}
- name: JOULEBOOK_NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- with .Values.cluster }}
- name: JOULEBOOK_NODE_CLUSTER
  value: {{ . | quote }}
{{- end }}
- name: JOULEBOOK_SERVER_LISTEN
  value: ":{{ .Values.port }}"
{{- if include "joulebook.guarded" . }}
- name: JOULEBOOK_SERVER_WEB_CONFIG
  value: /etc/joulebook-web/web-config.yml
{{- end }}
{{- if .Values.handover.tokenSecretName }}
- name: JOULEBOOK_SERVER_TOKEN_FILE
  value: /etc/joulebook-token/token
{{- end }}
- name: JOULEBOOK_LEDGER_PATH
  value: /var/lib/joulebook/ledger.db
# A pod that fails again and again could not be asked by its doctor.
- name: JOULEBOOK_DAEMON_WAIT_FOR_SENSORS
  value: "true"
{{- if not .Values.ledger.enabled }}
- name: JOULEBOOK_LEDGER_ALLOW_VOLATILE
  value: "true"
{{- end }}
{{- if .Values.kubelet.enabled }}
- name: JOULEBOOK_TENANTS_KUBERNETES_ENABLED
  value: "true"
- name: JOULEBOOK_TENANTS_KUBERNETES_API
  value: {{ .Values.kubernetesApi.enabled | quote }}
- name: JOULEBOOK_TENANTS_KUBERNETES_NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: JOULEBOOK_TENANTS_KUBERNETES_POD_LOGS
  value: {{ ternary "/var/log/pods" "" .Values.podLogs.enabled | quote }}
{{- else }}
- name: JOULEBOOK_TENANTS_KUBERNETES_ENABLED
  value: "false"
{{- end }}
# Jobs of a SLURM beside Kubernetes are for the daemon of its package.
- name: JOULEBOOK_TENANTS_SLURM_ENABLED
  value: "false"
{{- if not .Values.hostPID }}
- name: JOULEBOOK_MARKS_ENABLED
  value: "false"
{{- end }}
{{- if .Values.hostSys.enabled }}
- name: JOULEBOOK_SENSORS_DRM_ROOT
  value: /host/sys/class/drm
- name: JOULEBOOK_SENSORS_RAPL_ROOT
  value: /host/sys/class/powercap
- name: JOULEBOOK_SENSORS_HWMON_ROOT
  value: /host/sys/class/hwmon
- name: JOULEBOOK_TENANTS_KUBERNETES_CGROUP_ROOT
  value: /host/sys/fs/cgroup
{{- else }}
- name: JOULEBOOK_SENSORS_RAPL_ENABLED
  value: "false"
- name: JOULEBOOK_SENSORS_HWMON_ENABLED
  value: "false"
{{- end }}
{{- if .Values.hostProc.enabled }}
- name: JOULEBOOK_HOST_PROC
  value: /host/proc
{{- end }}
{{- if eq .Values.nvidia.access "runtime" }}
- name: NVIDIA_VISIBLE_DEVICES
  value: all
- name: NVIDIA_DRIVER_CAPABILITIES
  value: utility
{{- else }}
# Over what the image says to NVIDIA's runtime, where that is the default one.
- name: NVIDIA_VISIBLE_DEVICES
  value: void
{{- end }}
{{- if eq .Values.nvidia.access "driverRoot" }}
{{- $folders := list }}
{{- range .Values.nvidia.driverRoot.libraries }}
{{- $folders = append $folders (printf "/driver/%s" .) }}
{{- end }}
- name: LD_LIBRARY_PATH
  value: {{ join ":" $folders | quote }}
{{- else if eq .Values.nvidia.access "none" }}
- name: JOULEBOOK_SENSORS_NVML_ENABLED
  value: "false"
{{- end }}
{{- end }}

{{- /* What a read-only mount says of the file systems mounted below it; Kubernetes 1.27 to 1.29 have
       no such word, and leave these as they are. */ -}}
{{- define "joulebook.deep" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}
  recursiveReadOnly: IfPossible
{{- end }}
{{- end }}

{{- define "joulebook.mounts" -}}
- name: config
  mountPath: /etc/joulebook
  readOnly: true
- name: ledger
  mountPath: /var/lib/joulebook
{{- if .Values.kubelet.enabled }}
# The folder and not the socket: the kubelet makes a new one when it restarts.
- name: pod-resources
  mountPath: /var/lib/kubelet/pod-resources
  readOnly: true
{{- end }}
{{- if .Values.hostSys.enabled }}
# Not /sys as a whole: what else is mounted below it (debugfs, the firmware's variables) is no
# business of ours.
{{- range list "class" "devices" "fs/cgroup" }}
- name: host-sys-{{ base . }}
  mountPath: /host/sys/{{ . }}
  readOnly: true
  {{- include "joulebook.deep" $ }}
{{- end }}
{{- end }}
{{- if .Values.hostProc.enabled }}
- name: host-proc
  mountPath: /host/proc
  readOnly: true
  {{- include "joulebook.deep" . }}
{{- end }}
{{- if eq .Values.nvidia.access "driverRoot" }}
- name: driver
  mountPath: /driver
  readOnly: true
  # A driver's container that comes later, or again, mounts its own root here.
  mountPropagation: HostToContainer
{{- end }}
{{- if include "joulebook.guarded" . }}
- name: web
  mountPath: /etc/joulebook-web
  readOnly: true
{{- end }}
{{- if and .Values.web.tlsSecretName (not .Values.web.configSecretName) }}
- name: tls
  mountPath: /etc/joulebook-tls
  readOnly: true
{{- end }}
{{- if .Values.hostPID }}
# Where programs outside pods leave their marks; it is made with mode 1777.
- name: run
  mountPath: /run/joulebook
{{- end }}
{{- if and .Values.podLogs.enabled .Values.kubelet.enabled }}
- name: pod-logs
  mountPath: /var/log/pods
  readOnly: true
{{- end }}
{{- if .Values.handover.tokenSecretName }}
- name: token
  mountPath: /etc/joulebook-token
  readOnly: true
{{- end }}
- name: tmp
  mountPath: /tmp
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "joulebook.volumes" -}}
- name: config
  configMap:
    name: {{ include "joulebook.fullname" . | quote }}
- name: ledger
  {{- if .Values.ledger.enabled }}
  hostPath:
    path: {{ .Values.ledger.hostPath }}
    type: DirectoryOrCreate
  {{- else }}
  emptyDir:
    sizeLimit: 1Gi
  {{- end }}
{{- if .Values.kubelet.enabled }}
- name: pod-resources
  hostPath:
    path: {{ .Values.kubelet.podResourcesDir }}
    type: Directory
{{- end }}
{{- if .Values.hostSys.enabled }}
{{- range list "class" "devices" "fs/cgroup" }}
- name: host-sys-{{ base . }}
  hostPath:
    path: /sys/{{ . }}
    type: Directory
{{- end }}
{{- end }}
{{- if .Values.hostProc.enabled }}
- name: host-proc
  hostPath:
    path: /proc
    type: Directory
{{- end }}
{{- if eq .Values.nvidia.access "driverRoot" }}
- name: driver
  hostPath:
    path: {{ .Values.nvidia.driverRoot.hostPath }}
    type: Directory
{{- end }}
{{- if include "joulebook.guarded" . }}
- name: web
  secret:
    secretName: {{ .Values.web.configSecretName | default (printf "%s-web" (include "joulebook.fullname" .)) }}
    defaultMode: 0400
{{- end }}
{{- if and .Values.web.tlsSecretName (not .Values.web.configSecretName) }}
- name: tls
  secret:
    secretName: {{ .Values.web.tlsSecretName }}
    defaultMode: 0400
{{- end }}
{{- if .Values.hostPID }}
- name: run
  hostPath:
    path: /run/joulebook
    type: DirectoryOrCreate
{{- end }}
{{- if and .Values.podLogs.enabled .Values.kubelet.enabled }}
- name: pod-logs
  hostPath:
    path: /var/log/pods
    type: Directory
{{- end }}
{{- if .Values.handover.tokenSecretName }}
- name: token
  secret:
    secretName: {{ .Values.handover.tokenSecretName }}
    defaultMode: 0400
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
