{{- define "svdjobs.name" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 20 | trimSuffix "-" -}}
{{- end -}}

{{- define "svdjobs.account" -}}
{{- .Values.serviceAccount.name | default (include "svdjobs.name" .) -}}
{{- end -}}

{{/* Labels of every object of a sweep: LABELS of svdjobs/cluster/manifests/pods.py. */}}
{{- define "svdjobs.podLabels" -}}
app.kubernetes.io/name: svdjobs
app.kubernetes.io/part-of: svdjobs
{{- end -}}

{{- define "svdjobs.labels" -}}
{{ include "svdjobs.podLabels" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
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
{{- end }}
{{- end -}}

{{/* The restricted Pod Security level requires this of a pod, and of a container. */}}
{{- define "svdjobs.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- if not (kindIs "invalid" .Values.user) }}
runAsUser: {{ .Values.user | int64 }}
runAsGroup: 0
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
