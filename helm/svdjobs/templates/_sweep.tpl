{{/*
The sweep's spec: files/sweep-spec.yaml, as `svdjobs workflow render` wrote it, with the values put
into it. It is read as data, so Argo's braces are no template of Helm's.
*/}}
{{- define "svdjobs.sweep" -}}
{{- $spec := .Files.Get "files/sweep-spec.yaml" | fromYaml -}}
{{- if not (hasKey $spec "templates") -}}
{{- fail (printf "files/sweep-spec.yaml is no spec of a workflow: %s. Write it with `svdjobs workflow render`." ($spec.Error | default "it has no templates")) -}}
{{- end -}}
{{- range $spec.arguments.parameters -}}
{{- $own := get (include "svdjobs.parameters" $ | fromYaml) .name -}}
{{- if $own -}}{{- $_ := set . "value" $own -}}{{- end -}}
{{- end -}}
{{- $limits := .Values.limits -}}
{{- $labels := merge (dict) (include "svdjobs.podLabels" . | fromYaml) .Values.podLabels -}}
{{- $_ := set $spec "podMetadata" (dict "labels" $labels) -}}
{{- with .Values.podAnnotations -}}{{- $_ := set $spec.podMetadata "annotations" . -}}{{- end -}}
{{- $_ := set $spec "parallelism" $limits.parallelism -}}
{{- $_ := set $spec "serviceAccountName" (include "svdjobs.account" .) -}}
{{- $_ := set $spec "securityContext" (include "svdjobs.podSecurity" . | fromYaml) -}}
{{- $_ := set $spec "ttlStrategy" (dict "secondsAfterSuccess" $limits.keepSuccessSeconds "secondsAfterFailure" $limits.keepFailureSeconds) -}}
{{- $_ := unset $spec "imagePullSecrets" -}}
{{- with include "svdjobs.pullSecrets" . -}}{{- $_ := set $spec "imagePullSecrets" (fromYamlArray .) -}}{{- end -}}
{{- range $spec.templates -}}
{{- if .container -}}{{- include "svdjobs.leaf" (dict "root" $ "template" .) -}}{{- end -}}
{{- end -}}
{{- toYaml $spec -}}
{{- end -}}

{{- define "svdjobs.pullSecrets" -}}
{{- range .Values.pullSecrets }}
- name: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Defaults of the workflow's parameters; what is empty stays as it was generated. */}}
{{- define "svdjobs.parameters" -}}
{{- range $found, $who := dict "{{" "Argo" "$(" "Kubernetes" "$$" "Kubernetes" -}}
{{- if or (contains $found $.Values.config) (contains $found $.Values.cron.config) -}}
{{- fail (printf "config: %s would replace '%s'. In a prompt or title, put a space between the two signs; a chat template belongs to the tokenizer." $who $found) -}}
{{- end -}}
{{- end -}}
{{- range list .Values.image .Values.evaluateImage -}}
{{- if hasSuffix ":latest" . -}}
{{- fail (printf "image %s: `latest` changes while a sweep runs. Name a fixed tag or a digest." .) -}}
{{- end -}}
{{- end -}}
config: {{ .Values.config | toJson }}
store: {{ .Values.store.url | toJson }}
image: {{ .Values.image | toJson }}
evaluate-image: {{ .Values.evaluateImage | toJson }}
gpus: {{ .Values.gpu.count | int64 | toString | toJson }}
keep-weights: {{ .Values.keepWeights | toString | toJson }}
{{- end -}}

{{/* Puts the values into one template that is a pod. Prints nothing. */}}
{{- define "svdjobs.leaf" -}}
{{- $root := .root -}}
{{- $template := .template -}}
{{- $container := $template.container -}}
{{- $values := $root.Values -}}
{{- $evaluates := eq $template.name "evaluate" -}}
{{- $_ := set $container "imagePullPolicy" $values.pullPolicy -}}
{{- $_ := set $template.retryStrategy "limit" ($values.limits.retries | int64 | toString) -}}
{{- $_ := unset $container "envFrom" -}}
{{- with include "svdjobs.envFrom" $root -}}{{- $_ := set $container "envFrom" (fromYamlArray .) -}}{{- end -}}
{{- with get $values $template.name -}}
{{- include "svdjobs.sized" (dict "own" . "template" $template) -}}
{{- end -}}
{{- $verdicts := $root.Files.Get "files/artifacts.yaml" | fromYaml -}}
{{- if and (hasKey $verdicts $template.name) $values.artifacts -}}
{{- $folder := printf "/scratch/%s" $template.name -}}
{{- $place := ternary "{{workflow.name}}" (printf "{{workflow.name}}/%s" $template.name) (eq $template.name "report") -}}
{{- $_ := set $container "args" (concat $container.args (list "--copy-to" $folder)) -}}
{{- $artifacts := list -}}
{{- range get $verdicts $template.name -}}
{{- $where := dict "key" (printf "%s/%s" $place .) -}}
{{- $artifacts = append $artifacts (dict "name" (first (splitList "." .)) "path" (printf "%s/%s" $folder .) "s3" $where "archive" (dict "none" dict) "optional" true) -}}
{{- end -}}
{{- $_ := set $template "outputs" (dict "artifacts" $artifacts) -}}
{{- end -}}
{{- $patch := dict "terminationGracePeriodSeconds" $values.limits.graceSeconds -}}
{{- $where := dict "nodeSelector" $values.nodeSelector "tolerations" $values.tolerations -}}
{{- if $evaluates -}}
{{- $gpu := $values.gpu -}}
{{- $gpus := dict $gpu.resource "{{workflow.parameters.gpus}}" -}}
{{- $_ := set $patch "containers" (list (dict "name" "main" "resources" (dict "limits" $gpus "requests" $gpus))) -}}
{{- with $gpu.runtimeClass -}}{{- $_ := set $patch "runtimeClassName" . -}}{{- end -}}
{{- $where = dict "nodeSelector" $gpu.nodeSelector "tolerations" $gpu.tolerations "affinity" $gpu.affinity "priorityClassName" $gpu.priorityClass "schedulerName" $gpu.scheduler -}}
{{- range $template.volumes -}}
{{- if eq .name "shm" -}}{{- $_ := set .emptyDir "sizeLimit" $gpu.sharedMemory -}}{{- end -}}
{{- end -}}
{{- with include "svdjobs.queue" $root -}}{{- $_ := set $template.metadata.labels "kueue.x-k8s.io/queue-name" . -}}{{- end -}}
{{- $_ := unset $template "synchronization" -}}
{{- with include "svdjobs.semaphore" $root -}}
{{- $key := dict "name" . "key" "evaluate" -}}
{{- $_ := set $template "synchronization" (dict "semaphores" (list (dict "configMapKeyRef" $key))) -}}
{{- end -}}
{{- end -}}
{{- range $key, $value := $where -}}
{{- $_ := unset $template $key -}}
{{- if $value -}}{{- $_ := set $template $key $value -}}{{- end -}}
{{- end -}}
{{- /* As JSON it would end in braces that are no parameter's. */ -}}
{{- $_ := set $template "podSpecPatch" (toYaml $patch) -}}
{{- end -}}

{{/* What one pod of a stage gets. Prints nothing. */}}
{{- define "svdjobs.sized" -}}
{{- $own := .own -}}
{{- $template := .template -}}
{{- $requests := dict "cpu" (toString $own.cpu) "memory" (toString $own.memory) "ephemeral-storage" (toString $own.scratch) -}}
{{- $limits := dict "cpu" (toString ($own.cpuLimit | default $own.cpu)) "memory" (toString ($own.memoryLimit | default $own.memory)) "ephemeral-storage" (toString $own.scratch) -}}
{{- $_ := set $template.container "resources" (dict "requests" $requests "limits" $limits) -}}
{{- range $template.volumes -}}
{{- if eq .name "scratch" -}}{{- $_ := set .emptyDir "sizeLimit" (toString $own.scratch) -}}{{- end -}}
{{- end -}}
{{- $_ := unset $template "activeDeadlineSeconds" -}}
{{- with $own.deadlineSeconds -}}{{- $_ := set $template "activeDeadlineSeconds" . -}}{{- end -}}
{{- end -}}
