{{/* Names and labels. */}}

{{- define "mizzen.name" -}}
{{- default .Chart.Name .Values.nameOverride | lower | trunc 47 | trimSuffix "-" -}}
{{- end -}}

{{/*
The release's full name: a DNS-1035 label of at most 47 characters, as KubeRay asks of a RayService.
*/}}
{{- define "mizzen.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $chart := include "mizzen.name" . -}}
{{- $name = contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart) -}}
{{- end -}}
{{- $name = regexReplaceAll "[^a-z0-9-]" (lower $name) "-" -}}
{{- if not (regexMatch "^[a-z]" $name) -}}{{- $name = printf "m%s" $name -}}{{- end -}}
{{- trunc 47 $name | trimAll "-" -}}
{{- end -}}

{{- define "mizzen.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "mizzen.labels" -}}
helm.sh/chart: {{ include "mizzen.chart" . }}
app.kubernetes.io/name: {{ include "mizzen.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mizzen
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/*
What all pods of the release have, jobs included. It does not hold app.kubernetes.io/name: KubeRay's service
for the head of a RayService selects pods by that label's value of its own.
*/}}
{{- define "mizzen.selectorLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: mizzen
{{- end -}}

{{- define "mizzen.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "mizzen.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "mizzen.headServiceAccountName" -}}
{{- include "mizzen.fullname" . }}-head
{{- end -}}

{{- define "mizzen.submitterName" -}}
{{- include "mizzen.fullname" . }}-submitter
{{- end -}}

{{/* Where KubeRay answers for the applications: a Service that it makes. */}}
{{- define "mizzen.serveService" -}}
{{- include "mizzen.fullname" . }}-serve-svc
{{- end -}}

{{/* Images. */}}

{{- define "mizzen.image" -}}
{{- with .Values.image.digest -}}
{{- printf "%s@%s" $.Values.image.repository . -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "mizzen.gpuImage" -}}
{{- $repository := .Values.gpuImage.repository | default .Values.image.repository -}}
{{- $tag := .Values.gpuImage.tag | default (printf "%s-cuda" (.Values.image.tag | default .Chart.AppVersion)) -}}
{{- with .Values.gpuImage.digest -}}
{{- printf "%s@%s" $repository . -}}
{{- else -}}
{{- printf "%s:%s" $repository $tag -}}
{{- end -}}
{{- end -}}

{{/* The store. */}}

{{- define "mizzen.storeMountPath" -}}/var/lib/mizzen-store{{- end -}}

{{- define "mizzen.storeUrl" -}}
{{- .Values.store.url | default (printf "file://%s" (include "mizzen.storeMountPath" .)) -}}
{{- end -}}

{{/* The claim's name, or nothing if the store is no folder. */}}
{{- define "mizzen.storeClaim" -}}
{{- if hasPrefix "file:" (include "mizzen.storeUrl" .) -}}
{{- .Values.store.persistence.existingClaim | default (printf "%s-store" (include "mizzen.fullname" .)) -}}
{{- end -}}
{{- end -}}

{{/* Secrets. */}}

{{- define "mizzen.apiKeysSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-api-keys" (include "mizzen.fullname" .)) -}}
{{- end -}}

{{/* Whether keys lie in a Secret that is mounted. */}}
{{- define "mizzen.mountsApiKeys" -}}
{{- if and .Values.auth.enabled (eq .Values.auth.source "secret") -}}true{{- end -}}
{{- end -}}

{{- define "mizzen.apiKeysFolder" -}}/etc/mizzen/api-keys{{- end -}}

{{/* What endpoints are told of keys: they start only if they are told. */}}
{{- define "mizzen.apiKeys" -}}
{{- if include "mizzen.mountsApiKeys" . -}}
{{- include "mizzen.apiKeysFolder" . -}}
{{- else -}}
{{- .Values.auth.enabled | ternary .Values.auth.source "none" -}}
{{- end -}}
{{- end -}}

{{/* The Secret from which `helm test` has its key, or nothing. */}}
{{- define "mizzen.testSecret" -}}
{{- if include "mizzen.mountsApiKeys" . -}}
{{- include "mizzen.apiKeysSecret" . -}}
{{- else if .Values.auth.enabled -}}
{{- .Values.tests.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "mizzen.canTest" -}}
{{- if and .Values.apps (or (not .Values.auth.enabled) (include "mizzen.testSecret" .)) -}}true{{- end -}}
{{- end -}}

{{- define "mizzen.rayTokenSecret" -}}
{{- .Values.ray.tokenAuth.existingSecret | default (printf "%s-ray-token" (include "mizzen.fullname" .)) -}}
{{- end -}}

{{/*
A value of a generated Secret: the one that is in the cluster already, else a new one.
Takes root, secret, key, length.
*/}}
{{- define "mizzen.keptValue" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- $data := ($found | default dict).data | default dict -}}
{{- index $data .key | default (randAlphaNum (int .length) | b64enc) -}}
{{- end -}}
