{{/* What the RayService is made of. */}}

{{/*
The serve config, as the operator hands it to Ray Serve: an application for each entry of a serve file.
*/}}
{{- define "mizzen.serveConfig" -}}
{{- $applications := list -}}
{{- range .Values.apps -}}
{{- $args := dict "app" . "store_url" (include "mizzen.storeUrl" $) "watch_every_s" $.Values.serving.watchEverySeconds -}}
{{- $prefix := .route_prefix | default (printf "/%s" .name) -}}
{{- $applications = append $applications (dict "name" .name "route_prefix" $prefix "import_path" "mizzen.serving.app:build" "args" $args) -}}
{{- end -}}
{{- toYaml (dict "applications" $applications) -}}
{{- end -}}

{{/* Worker groups, each with every key of `worker`: JSON of a list under `groups`. */}}
{{- define "mizzen.workerGroups" -}}
{{- $groups := list -}}
{{- range .Values.serving.workerGroups -}}
{{- $whole := deepCopy $.Values.serving.worker -}}
{{- range $key, $value := . -}}{{- $_ := set $whole $key $value -}}{{- end -}}
{{- $groups = append $groups $whole -}}
{{- end -}}
{{- toJson (dict "groups" $groups) -}}
{{- end -}}

{{- define "mizzen.hasGateway" -}}
{{- if .Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1/HTTPRoute" -}}yes{{- end -}}
{{- end -}}

{{/* The upgrade strategy that `auto` means here. */}}
{{- define "mizzen.upgradeStrategy" -}}
{{- $upgrade := .Values.serving.upgrade -}}
{{- if ne $upgrade.strategy "auto" -}}
{{- $upgrade.strategy -}}
{{- else if and $upgrade.gatewayClassName .Values.serving.autoscaling.enabled (include "mizzen.hasGateway" .) -}}
NewClusterWithIncrementalUpgrade
{{- else -}}
NewCluster
{{- end -}}
{{- end -}}

{{- define "mizzen.faultTolerance" -}}
{{- with .Values.serving.faultTolerance -}}
{{- if eq .mode "redis" -}}
backend: redis
redisAddress: {{ .redis.address | quote }}
{{- with .redis.existingSecret }}
redisPassword:
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: {{ $.Values.serving.faultTolerance.redis.passwordKey | quote }}}
{{- end }}
{{- else if eq .mode "rocksdb" -}}
backend: rocksdb
storage:
  {{- if .rocksdb.claimName }}
  claimName: {{ .rocksdb.claimName | quote }}
  {{- else }}
  size: {{ .rocksdb.size }}
  {{- with .rocksdb.storageClassName }}
  storageClassName: {{ . | quote }}
  {{- end }}
  {{- end }}
{{- end -}}
{{- end -}}
{{- end -}}
