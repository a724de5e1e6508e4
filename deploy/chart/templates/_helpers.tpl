{{- define "millrace.name" -}}
{{- if contains "millrace" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-millrace" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* The labels that select a part's pods; call it with (list . "api"). */}}
{{- define "millrace.selector" -}}
app.kubernetes.io/name: millrace
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "millrace.labels" -}}
{{ include "millrace.selector" . }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end }}

{{- define "millrace.metadata" -}}
name: {{ include "millrace.name" (index . 0) }}-{{ index . 1 }}
namespace: {{ (index . 0).Release.Namespace }}
labels: {{- include "millrace.labels" . | nindent 2 }}
{{- end }}

{{- define "millrace.image" -}}
{{- $values := (index . 0).Values.image -}}
image: {{ printf "%smillrace-%s:%s" (empty $values.registry | ternary "" (printf "%s/" $values.registry)) (index . 1) $values.tag | quote }}
imagePullPolicy: {{ $values.pullPolicy }}
{{- end }}

{{- define "millrace.pod" -}}
serviceAccountName: {{ include "millrace.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false # or Services called millrace… would make variables that the programs refuse
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "millrace.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Pods of one part on different nodes where that can be. */}}
{{- define "millrace.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "millrace.selector" . | nindent 8 }}
{{- end }}

{{/* A variable with a Redis's URL: from a Secret, or of the one that is started here. (list . NAME SECRET PART) */}}
{{- define "millrace.redis-url" -}}
- name: {{ index . 1 }}
{{- if index . 2 }}
  valueFrom: {secretKeyRef: {name: {{ index . 2 }}, key: url}}
{{- else }}
  value: redis://{{ include "millrace.name" (index . 0) }}-{{ index . 3 }}:6379/0
{{- end }}
{{- end }}

{{- define "millrace.environment" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "millrace.jobs-environment" -}}
{{ include "millrace.redis-url" (list . "MILLRACE_JOBS_REDIS_URL" .Values.jobs.urlSecret "redis-jobs") }}
- name: MILLRACE_JOBS_FOLDER
  value: /jobs
{{- end }}

{{- define "millrace.jobs-claim" -}}
{{ .Values.jobs.filesClaim | default (printf "%s-jobs" (include "millrace.name" .)) }}
{{- end }}

{{/* The container that copies the models of an image into the pod's volume. */}}
{{- define "millrace.models-init" -}}
{{- $models := .Values.models }}
{{- if eq $models.source "image" }}
initContainers:
  - name: models
    image: {{ required "models.image is needed with models.source: image" $models.image | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    {{- include "millrace.container" . | nindent 4 }}
    command: [cp, -R, /models/., /repository/]
    resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 256Mi}}
    volumeMounts:
      - {name: models, mountPath: /repository}
{{- end }}
{{- end }}

{{- define "millrace.models-volume" -}}
{{- $models := .Values.models }}
{{- if eq $models.source "claim" -}}
- {name: models, persistentVolumeClaim: {claimName: {{ required "models.claim is needed with models.source: claim" $models.claim }}, readOnly: true}}
{{- else -}}
- {name: models, emptyDir: {sizeLimit: {{ $models.cacheSize }}}}
{{- end }}
{{- end }}

{{/* Whether the API reads the models' cards: those of a URL are in the workers' caches alone. */}}
{{- define "millrace.has-cards" -}}
{{- if and .Values.models.cards (ne .Values.models.source "url") }}yes{{ end }}
{{- end }}

{{/* Whether anything that the programs need is outside of this release. */}}
{{- define "millrace.is-external" -}}
{{- if or .Values.redis.urlSecret (and .Values.jobs.enabled .Values.jobs.urlSecret) (eq .Values.models.source "url") }}yes{{ end }}
{{- end }}
