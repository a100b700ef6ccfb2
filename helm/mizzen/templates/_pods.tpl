{{/* What the pods that serve have in common. */}}

{{/* The restricted Pod Security Standard, for a pod. */}}
{{- define "mizzen.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The restricted Pod Security Standard, for a container. */}}
{{- define "mizzen.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Takes root, holdsReplicas. The head holds none, so it gets neither keys nor the store. */}}
{{- define "mizzen.env" -}}
- {name: HOME, value: /var/lib/mizzen}
- {name: MIZZEN_HOME, value: /var/lib/mizzen}
- {name: MIZZEN_STORE, value: {{ include "mizzen.storeUrl" .root | quote }}}
{{- if .holdsReplicas }}
- {name: MIZZEN_API_KEYS, value: {{ include "mizzen.apiKeys" .root }}}
{{- end }}
- {name: RAY_SERVE_ENABLE_HA_PROXY, value: "1"}
- {name: RAY_SERVE_THROUGHPUT_OPTIMIZED, value: "1"}
# An application waits for its first version for as long as it takes; three starts are Serve's own limit.
- {name: RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT, value: "1000000"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- with include "mizzen.tracingEnv" .root }}
{{ . }}
{{- end }}
{{- with .root.Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where spans go, for serving and for jobs; nothing while tracing is off. */}}
{{- define "mizzen.tracingEnv" -}}
{{- with .Values.tracing -}}
{{- if .endpoint -}}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_SERVICE_NAME, value: {{ .serviceName | quote }}}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: {{ printf "k8s.namespace.name=%s" $.Release.Namespace | quote }}}
- {name: OTEL_TRACES_SAMPLER, value: {{ .sampler | quote }}}
{{- with .samplerArg | toString }}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ . | quote }}}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Takes root, holdsReplicas. */}}
{{- define "mizzen.envFrom" -}}
{{- if and .holdsReplicas .root.Values.store.existingSecret }}
- secretRef: {name: {{ .root.Values.store.existingSecret | quote }}}
{{- end }}
{{- with .root.Values.envFrom }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes root, holdsReplicas. */}}
{{- define "mizzen.volumeMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
- {name: home, mountPath: /var/lib/mizzen}
{{- if and .holdsReplicas (include "mizzen.storeClaim" .root) }}
- {name: store, mountPath: {{ include "mizzen.storeMountPath" .root }}, readOnly: true}
# What users do is written down beside the models, which stay as they are.
- {name: store, mountPath: {{ include "mizzen.storeMountPath" .root }}/lake, subPath: lake}
{{- end }}
{{- if and .holdsReplicas (include "mizzen.mountsApiKeys" .root) }}
- {name: api-keys, mountPath: {{ include "mizzen.apiKeysFolder" .root }}, readOnly: true}
{{- end }}
{{- with .root.Values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes root, pod, holdsReplicas. */}}
{{- define "mizzen.volumes" -}}
- {name: tmp, emptyDir: {sizeLimit: {{ .pod.tmpSize }}}}
- {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ .pod.shmSize }}}}
- {name: home, emptyDir: {sizeLimit: {{ .pod.homeSize }}}}
{{- if and .holdsReplicas (include "mizzen.storeClaim" .root) }}
- {name: store, persistentVolumeClaim: {claimName: {{ include "mizzen.storeClaim" .root | quote }}}}
{{- end }}
{{- if and .holdsReplicas (include "mizzen.mountsApiKeys" .root) }}
- {name: api-keys, secret: {secretName: {{ include "mizzen.apiKeysSecret" .root | quote }}, defaultMode: 288}}
{{- end }}
{{- with .root.Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Exports series and prints log lines from the files that the processes of the pod write. Takes root. */}}
{{- define "mizzen.metricsContainer" -}}
- name: metrics
  image: {{ .image | quote }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [mizzen, metrics, --host, 0.0.0.0, --port, "9464", --logs]
  env:
    - {name: HOME, value: /var/lib/mizzen}
    - {name: MIZZEN_HOME, value: /var/lib/mizzen}
    # Else an image with CUDA in it would see the node's GPUs.
    - {name: NVIDIA_VISIBLE_DEVICES, value: void}
  ports: [{name: mizzen-metrics, containerPort: 9464}]
  resources:
    {{- toYaml .root.Values.metricsSidecar.resources | nindent 4 }}
  securityContext:
    {{- include "mizzen.securityContext" . | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: home, mountPath: /var/lib/mizzen}
{{- end -}}

{{/*
The resources of a worker's container, with its GPUs. Takes root, pod.
*/}}
{{- define "mizzen.workerResources" -}}
{{- $resources := deepCopy .pod.resources -}}
{{- if .pod.gpus -}}
{{- $gpus := dict .root.Values.serving.gpuResource (int .pod.gpus) -}}
{{- range $part := list "requests" "limits" -}}
{{- $_ := set $resources $part (merge (dict) $gpus (index $resources $part | default dict)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/*
Spread constraints in which one without labelSelector counts the pods of the group. Takes root, name, pod.
*/}}
{{- define "mizzen.spread" -}}
{{- $labels := include "mizzen.selectorLabels" .root | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/component" "serving" -}}
{{- $_ := set $labels "ray.io/group" .name -}}
{{- $constraints := list -}}
{{- range .pod.topologySpreadConstraints -}}
{{- $constraint := deepCopy . -}}
{{- if not (hasKey $constraint "labelSelector") -}}
{{- $_ := set $constraint "labelSelector" (dict "matchLabels" $labels) -}}
{{- end -}}
{{- $constraints = append $constraints $constraint -}}
{{- end -}}
{{- toYaml $constraints -}}
{{- end -}}

{{/*
Template of a pod of the serving cluster. Takes root, pod (head's values, or a whole worker group's), and
name: the group's, or nothing for the head.
*/}}
{{- define "mizzen.servingPod" -}}
{{- $root := .root -}}
{{- $pod := .pod -}}
{{- $head := not .name -}}
{{- $parts := dict "root" $root "pod" $pod "holdsReplicas" (not $head) -}}
{{- $image := $pod.gpus | empty | ternary (include "mizzen.image" $root) (include "mizzen.gpuImage" $root) -}}
metadata:
  labels:
    {{- include "mizzen.selectorLabels" $root | nindent 4 }}
    app.kubernetes.io/component: serving
    {{- with $root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $root.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- if $head }}
  serviceAccountName: {{ include "mizzen.headServiceAccountName" $root | quote }}
  automountServiceAccountToken: {{ $root.Values.serving.autoscaling.enabled }}
  {{- else }}
  serviceAccountName: {{ include "mizzen.serviceAccountName" $root | quote }}
  automountServiceAccountToken: false
  {{- end }}
  enableServiceLinks: false
  securityContext:
    {{- include "mizzen.podSecurityContext" $root | nindent 4 }}
  {{- if $root.Values.metricsSidecar.enabled }}
  # The exporter tells living processes from dead ones.
  shareProcessNamespace: true
  {{- end }}
  terminationGracePeriodSeconds: {{ $root.Values.serving.terminationGracePeriodSeconds | int }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with $pod.runtimeClassName }}
  runtimeClassName: {{ . | quote }}
  {{- end }}
  {{- with $pod.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $pod.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- include "mizzen.spread" . | nindent 4 }}
  {{- end }}
  volumes:
    {{- include "mizzen.volumes" $parts | nindent 4 }}
  containers:
    - name: {{ $head | ternary "ray-head" "ray-worker" }}
      image: {{ $image | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      env:
        {{- include "mizzen.env" $parts | nindent 8 }}
      {{- with include "mizzen.envFrom" $parts | trim }}
      envFrom:
        {{- . | nindent 8 }}
      {{- end }}
      ports:
        {{- if $head }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        {{- end }}
        - {name: serve, containerPort: 8000}
        - {name: metrics, containerPort: 8080}
        - {name: haproxy, containerPort: 9101}
      resources:
        {{- include "mizzen.workerResources" . | nindent 8 }}
      securityContext:
        {{- include "mizzen.securityContext" $root | nindent 8 }}
      # KubeRay's own probes of serving workers need bash, wget and grep, and are too slow for an upgrade.
      readinessProbe:
        {{- if $head }}
        httpGet: {path: /api/healthz, port: 52365}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 10
        {{- else }}
        {{- toYaml $root.Values.serving.readinessProbe | nindent 8 }}
        {{- end }}
      livenessProbe:
        httpGet: {path: /api/healthz, port: 52365}
        initialDelaySeconds: 30
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 12
      {{- with $root.Values.serving.drainSeconds }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ . | int }}}
      {{- end }}
      volumeMounts:
        {{- include "mizzen.volumeMounts" $parts | nindent 8 }}
    {{- if $root.Values.metricsSidecar.enabled }}
    {{- include "mizzen.metricsContainer" (dict "root" $root "image" $image) | nindent 4 }}
    {{- end }}
{{- end -}}
