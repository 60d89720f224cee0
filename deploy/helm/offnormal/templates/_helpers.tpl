{{- define "offnormal.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "offnormal.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "offnormal.labels" -}}
{{ include "offnormal.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "offnormal.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* The settings tree, with what the chart knows better. */}}
{{- define "offnormal.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- if and (eq .Values.worker.membership "static") (not (dig "kafka" "session_timeout" "" $settings)) -}}
{{- $settings = mergeOverwrite $settings (dict "kafka" (dict "session_timeout" .Values.worker.sessionTimeout)) -}}
{{- end -}}
{{- if and (eq .Values.training.mode "serve") .Values.training.schedule -}}
{{- $settings = mergeOverwrite (dict "training" (dict "schedule" .Values.training.schedule)) $settings -}}
{{- end -}}
{{- if not (include "offnormal.page" .) -}}
{{- $settings = mergeOverwrite $settings (dict "http" (dict "page" false)) -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/* Whether workers have the page: where the settings do not say, if it asks for a token. */}}
{{- define "offnormal.page" -}}
{{- if dig "http" "page" (ne .Values.credentials.pageToken "") .Values.settings -}}true{{- end -}}
{{- end -}}

{{/* What every pod of ours has in common. Called with a dict: root, gpu, node (nodeSelector,
     tolerations, affinity), hook (it runs before anything else is there). */}}
{{- define "offnormal.pod" -}}
{{- $root := .root -}}
automountServiceAccountToken: false
{{- if not .hook }}
serviceAccountName: {{ include "offnormal.fullname" $root }}
{{- end }}
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- if and .gpu $root.Values.gpu.runtimeClassName }}
runtimeClassName: {{ $root.Values.gpu.runtimeClassName }}
{{- end }}
{{- with .node.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .node.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .node.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: settings
    configMap: {name: {{ include "offnormal.fullname" $root }}{{ if .hook }}-hooks{{ end }}}
  - name: tmp
    emptyDir: {sizeLimit: {{ $root.Values.worker.tmp.sizeLimit }}}
  {{- if $root.Values.credentials.secret }}
  - name: credentials
    secret: {secretName: {{ $root.Values.credentials.secret }}, defaultMode: 0440}
  {{- end }}
  {{- with $root.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Of a container. Called with a dict: root, gpu, resources. */}}
{{- define "offnormal.container" -}}
{{- $root := .root -}}
image: {{ include "offnormal.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- $resources := deepCopy (default dict .resources) }}
{{- if .gpu }}
{{- $resources = mergeOverwrite $resources (dict "limits" (dict $root.Values.gpu.resource $root.Values.gpu.count)) }}
{{- end }}
{{- with $resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - {name: settings, mountPath: /etc/offnormal, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  {{- if $root.Values.credentials.secret }}
  - {name: credentials, mountPath: /etc/offnormal-credentials, readOnly: true}
  {{- end }}
  {{- with $root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Environment. Called with a dict: root, device. */}}
{{- define "offnormal.env" -}}
{{- $root := .root -}}
{{- $c := $root.Values.credentials -}}
{{- $at := "/etc/offnormal-credentials" -}}
- {name: OFFNORMAL_CONFIG, value: /etc/offnormal/settings.yaml}
{{- if .device }}
- {name: OFFNORMAL_DEVICE, value: {{ .device }}}
{{- end }}
{{- if $c.usernameKey }}
- name: OFFNORMAL_KAFKA__USERNAME
  valueFrom: {secretKeyRef: {name: {{ required "credentials.secret" $c.secret }}, key: {{ $c.usernameKey }}}}
{{- end }}
{{- if $c.passwordKey }}
- {name: OFFNORMAL_KAFKA__PASSWORD_FILE, value: {{ $at }}/{{ $c.passwordKey }}}
{{- end }}
{{- if $c.caKey }}
- {name: OFFNORMAL_KAFKA__CA_FILE, value: {{ $at }}/{{ $c.caKey }}}
{{- end }}
{{- if $c.certKey }}
- {name: OFFNORMAL_KAFKA__CERT_FILE, value: {{ $at }}/{{ $c.certKey }}}
{{- end }}
{{- if $c.keyKey }}
- {name: OFFNORMAL_KAFKA__KEY_FILE, value: {{ $at }}/{{ $c.keyKey }}}
{{- end }}
{{- if $c.signingKey }}
- {name: OFFNORMAL_MODEL__SIGNING_KEY_FILE, value: {{ $at }}/{{ $c.signingKey }}}
{{- end }}
{{- if $c.pageToken }}
- {name: OFFNORMAL_HTTP__TOKEN_FILE, value: {{ $at }}/{{ $c.pageToken }}}
{{- end }}
{{- if $c.registryPassword }}
- {name: OFFNORMAL_SCHEMA_REGISTRY__PASSWORD_FILE, value: {{ $at }}/{{ $c.registryPassword }}}
{{- end }}
{{- if $c.registryCa }}
- {name: OFFNORMAL_SCHEMA_REGISTRY__CA_FILE, value: {{ $at }}/{{ $c.registryCa }}}
{{- end }}
{{- with $root.Values.worker.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "offnormal.kind" -}}
{{- if eq .Values.worker.membership "static" -}}StatefulSet{{- else -}}Deployment{{- end -}}
{{- end -}}

{{- define "offnormal.scaled" -}}
{{- if or .Values.autoscaling.keda.enabled .Values.autoscaling.hpa.enabled }}true{{ end -}}
{{- end -}}

{{- define "offnormal.port" -}}
{{- dig "http" "port" 8080 .Values.settings -}}
{{- end -}}

{{/* The topics of the sensors as a JSON list; empty where they are a pattern. */}}
{{- define "offnormal.sensors" -}}
{{- $sensors := dig "topics" "sensors" "offnormal.sensors" .Values.settings -}}
{{- if not (kindIs "string" $sensors) -}}
{{- toJson $sensors -}}
{{- else if hasPrefix "^" $sensors -}}
[]
{{- else -}}
{{- hasPrefix "[" (trim $sensors) | ternary $sensors (splitList "," (nospace $sensors) | compact | toJson) -}}
{{- end -}}
{{- end -}}
