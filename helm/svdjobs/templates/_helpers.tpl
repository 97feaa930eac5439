{{- define "svdjobs.name" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 20 | trimSuffix "-" -}}
{{- end -}}

{{- define "svdjobs.account" -}}
{{- .Values.serviceAccount.name | default (include "svdjobs.name" .) -}}
{{- end -}}

{{/* Labels of every object of a sweep: LABELS of svdjobs/cluster/manifests/pods.py. */}}
{{- define "svdjobs.podLabels" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default "svdjobs" }}
app.kubernetes.io/part-of: svdjobs
{{- end -}}

{{- define "svdjobs.labels" -}}
{{ include "svdjobs.podLabels" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "svdjobs.devStore" -}}
{{ include "svdjobs.name" . }}-dev-store
{{- end -}}

{{- define "svdjobs.devStoreLabels" -}}
app.kubernetes.io/name: svdjobs-dev-store
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Name of the ConfigMap that limits the evaluation pods; empty without a limit. */}}
{{- define "svdjobs.semaphore" -}}
{{- if .Values.limits.semaphore -}}
{{- .Values.limits.semaphore -}}
{{- else if .Values.limits.evaluations -}}
{{- include "svdjobs.name" . }}-limits
{{- end -}}
{{- end -}}

{{/* Most evaluation pods at a time: limits.evaluations, or what somebody else has set since in the
     ConfigMap. Helm 4 applies server-side, where another value for a field of another manager is a
     conflict that ends the upgrade. The chart's own manager is the one that owns its label. */}}
{{- define "svdjobs.evaluations" -}}
{{- $there := lookup "v1" "ConfigMap" .Release.Namespace (include "svdjobs.semaphore" .) }}
{{- $found := .Values.limits.evaluations | int64 | toString }}
{{- range dig "metadata" "managedFields" list $there }}
{{- $ours := hasKey (dig "fieldsV1" "f:metadata" "f:labels" dict .) "f:helm.sh/chart" }}
{{- if and (hasKey (dig "fieldsV1" "f:data" dict .) "f:evaluate") (not $ours) }}
{{- $found = dig "data" "evaluate" $found $there }}
{{- end }}
{{- end }}
{{- $found }}
{{- end -}}

{{- define "svdjobs.synchronization" -}}
{{- with include "svdjobs.semaphore" . }}
semaphores:
- configMapKeyRef: {name: {{ . }}, key: evaluate}
{{- end }}
{{- end -}}

{{- define "svdjobs.queue" -}}
{{- if .Values.kueue.queueName -}}
{{- .Values.kueue.queueName -}}
{{- else if .Values.kueue.localQueue.create -}}
{{- include "svdjobs.name" . -}}
{{- end -}}
{{- end -}}

{{/* Secrets whose keys become environment variables. If two have the same key, the later one counts. */}}
{{- define "svdjobs.envFrom" -}}
{{- if .Values.store.existingSecret }}
- secretRef: {name: {{ .Values.store.existingSecret | quote }}, optional: true}
{{- end }}
{{- if .Values.devStore.enabled }}
- secretRef: {name: {{ include "svdjobs.devStore" . }}}
{{- with .Values.devStore.existingSecret }}
- secretRef: {name: {{ . | quote }}}
{{- end }}
{{- end }}
{{- with .Values.extraEnvFrom }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Environment variables of all pods: `environment` of svdjobs/cluster/manifests/pods.py. */}}
{{- define "svdjobs.env" -}}
{{- if .Values.caConfigMap }}
{{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "CURL_CA_BUNDLE" "AWS_CA_BUNDLE" }}
- name: {{ . }}
  value: /etc/svdjobs/ca/ca.crt
{{- end }}
{{- end }}
{{- range $name, $value := dict "HTTP_PROXY" .Values.proxy.http "HTTPS_PROXY" .Values.proxy.https "NO_PROXY" .Values.proxy.noProxy }}
{{- if $value }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- if .Values.modelCache }}
- name: HF_HUB_CACHE
  value: /models
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "svdjobs.volumeMounts" -}}
{{- if .Values.caConfigMap }}
- {name: ca, mountPath: /etc/svdjobs/ca, readOnly: true}
{{- end }}
{{- if .Values.modelCache }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "svdjobs.volumes" -}}
{{- with .Values.caConfigMap }}
- name: ca
  configMap: {name: {{ . | quote }}}
{{- end }}
{{- with .Values.modelCache }}
- name: models
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The volume of /scratch, of a size. */}}
{{- define "svdjobs.scratch" -}}
{{- $root := index . 0 -}}
- name: scratch
{{- if $root.Values.scratchClass }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        storageClassName: {{ $root.Values.scratchClass | quote }}
        resources: {requests: {storage: {{ index . 1 | toString | quote }}}}
{{- else }}
  emptyDir: {sizeLimit: {{ index . 1 | toString | quote }}}
{{- end }}
{{- end -}}

{{/* A stage's nodeSelector, tolerations, affinity or priorityClass: its own, else those of GPUs, else the common ones. */}}
{{- define "svdjobs.placed" -}}
{{- $root := index . 0 -}}
{{- $own := index $root.Values (index . 1) -}}
{{- $field := index . 2 -}}
{{- $gpus := or (eq (index . 1) "evaluate") (gt (int $own.gpus) 0) -}}
{{- $found := index $own $field -}}
{{- if kindIs "invalid" $found -}}
{{- $found = $gpus | ternary (index $root.Values.gpu $field) (index $root.Values $field) -}}
{{- end -}}
{{- if kindIs "string" $found -}}{{ $found }}{{- else if $found -}}{{ toYaml $found }}{{- end -}}
{{- end -}}

{{/* What a pod has that a template of Argo lacks: `beside` of svdjobs/cluster/manifests/pods.py. */}}
{{- define "svdjobs.patched" -}}
{{- $root := index . 0 -}}
{{- if and (ne (index . 1) "evaluate") (gt (int (index $root.Values (index . 1) "gpus")) 0) $root.Values.gpu.runtimeClass }}
runtimeClassName: {{ $root.Values.gpu.runtimeClass | quote }}
{{- end }}
{{- with index $root.Values (index . 1) "topologySpread" -}}
{{ "" }}
topologySpreadConstraints:
{{ toYaml . }}
{{- end -}}
{{- end -}}

{{/* The request of a stage's own GPUs. */}}
{{- define "svdjobs.gpus" -}}
{{- $root := index . 0 -}}
{{- with index $root.Values (index . 1) "gpus" -}}
{{ $root.Values.gpu.resource }}: {{ . | int64 | toString | quote }}
{{- end -}}
{{- end -}}

{{/* 9999: for pods without a controller it must be a number, here of all pods (ALL_PODS of argo.py). */}}
{{- define "svdjobs.disruptions" -}}
{{- if .Values.protect }}
minAvailable: 9999
{{- end }}
{{- end -}}

{{/* The restricted Pod Security level requires this of a pod, and of a container. */}}
{{- define "svdjobs.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- if not (kindIs "invalid" .Values.user) }}
runAsUser: {{ .Values.user | int64 }}
runAsGroup: 0
{{- if .Values.scratchClass }}
fsGroup: 0
{{- end }}
{{- end }}
{{- end -}}

{{- define "svdjobs.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{- define "svdjobs.pullSecrets" -}}
{{- range .Values.pullSecrets }}
- name: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* What the names of the sweep's images begin with. */}}
{{- define "svdjobs.images" -}}
{{- with .Values.images.registry }}{{ . }}/{{ end }}{{ .Values.images.repository -}}
{{- end -}}

{{/* A stage's image; the arguments: root, stage, and what counts as svdjobs.images and as the tag. */}}
{{- define "svdjobs.image" -}}
{{- $root := index . 0 -}}
{{- $stage := index . 1 -}}
{{- $own := index $root.Values.images ($stage | camelcase | untitle) | default dict -}}
{{- if or $own.registry $own.repository $own.tag $own.digest -}}
{{- with $own.registry | default $root.Values.images.registry }}{{ . }}/{{ end -}}
{{- $own.repository | default (printf "%s-%s" $root.Values.images.repository $stage) -}}
{{- if or $own.tag (not $own.digest) }}:{{ $own.tag | default $root.Values.images.tag }}{{ end -}}
{{- with $own.digest }}@{{ . }}{{ end -}}
{{- else if and (eq $stage "evaluate") (not ($root.Values.gpu.count | int)) -}}
{{ index . 2 }}:{{ index . 3 }}
{{- else -}}
{{ index . 2 }}-{{ $stage }}:{{ index . 3 }}
{{- end -}}
{{- end -}}

{{/* The same for a template of Argo, whose parameters name the images. */}}
{{- define "svdjobs.argoImage" -}}
{{- include "svdjobs.image" (append (append . "{{workflow.parameters.images}}") "{{workflow.parameters.tag}}") -}}
{{- end -}}

{{/* Refuses values that a sweep would read differently, or that change while it runs. */}}
{{- define "svdjobs.refuse" -}}
{{- range $found, $who := dict "{{" "Argo" "$(" "Kubernetes" "$$" "Kubernetes" -}}
{{- if or (contains $found $.Values.config) (contains $found $.Values.cron.config) -}}
{{- fail (printf "config: %s would replace '%s'. In a prompt or title, put a space between the two signs; a chat template belongs to the tokenizer." $who $found) -}}
{{- end -}}
{{- end -}}
{{- range $name, $own := merge (dict "tag" (dict "tag" .Values.images.tag)) (omit .Values.images "tag" "registry" "repository") -}}
{{- if and $own (eq ($own.tag | default "") "latest") -}}
{{- fail (printf "images.%s: `latest` changes while a sweep runs. Name a fixed tag or a digest." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "svdjobs.requireArgo" -}}
{{- if and .Values.crds.check (not (.Capabilities.APIVersions.Has "argoproj.io/v1alpha1")) -}}
{{- fail "This cluster has no argoproj.io/v1alpha1: install Argo Workflows 3.7 or newer with its custom resource definitions first. To render without a cluster, set crds.check=false." -}}
{{- end -}}
{{- end -}}
