{{/* What the client reads before it makes a job. Its schema is mizzen.cluster.config.ClusterConfig. */}}

{{/* Takes one of jobs.head, jobs.cpuWorker, jobs.gpuWorker. */}}
{{- define "mizzen.jobPods" -}}
{{- $pods := dict "resources" .resources "shm_size" .shmSize "tmp_size" .tmpSize "home_size" .homeSize -}}
{{- $_ := set $pods "node_selector" .nodeSelector -}}
{{- $_ := set $pods "tolerations" .tolerations -}}
{{- $_ := set $pods "affinity" .affinity -}}
{{- $_ := set $pods "topology_spread_constraints" .topologySpreadConstraints -}}
{{- with .runtimeClassName -}}{{- $_ := set $pods "runtime_class" . -}}{{- end -}}
{{- toYaml $pods -}}
{{- end -}}

{{- define "mizzen.jobsConfig" -}}
release: {{ .Release.Name }}
version: {{ .Chart.AppVersion | quote }}
image: {{ include "mizzen.image" . | quote }}
gpu_image: {{ include "mizzen.gpuImage" . | quote }}
image_pull_policy: {{ .Values.image.pullPolicy }}
image_pull_secrets:
  {{- range .Values.imagePullSecrets }}
  - {{ .name | quote }}
  {{- else }} []
  {{- end }}
ray_version: {{ .Values.ray.version | quote }}
store:
  url: {{ include "mizzen.storeUrl" . | quote }}
  {{- with .Values.store.existingSecret }}
  secret: {{ . | quote }}
  {{- end }}
  {{- with include "mizzen.storeClaim" . }}
  claim: {{ . | quote }}
  mount_path: {{ include "mizzen.storeMountPath" $ }}
  {{- end }}
service_account: {{ include "mizzen.serviceAccountName" . | quote }}
env:
  {{- toYaml (concat (include "mizzen.tracingEnv" . | default "[]" | fromYamlArray) .Values.env | default list) | nindent 2 }}
env_from:
  {{- toYaml .Values.envFrom | nindent 2 }}
volumes:
  {{- toYaml .Values.volumes | nindent 2 }}
volume_mounts:
  {{- toYaml .Values.volumeMounts | nindent 2 }}
labels:
  {{- toYaml (merge (dict) .Values.jobs.labels .Values.podLabels) | nindent 2 }}
annotations:
  {{- toYaml (merge (dict) .Values.jobs.annotations .Values.podAnnotations) | nindent 2 }}
head:
  {{- include "mizzen.jobPods" .Values.jobs.head | nindent 2 }}
cpu_worker:
  {{- include "mizzen.jobPods" .Values.jobs.cpuWorker | nindent 2 }}
gpu_worker:
  {{- include "mizzen.jobPods" .Values.jobs.gpuWorker | nindent 2 }}
autoscaler:
  {{- toYaml .Values.jobs.autoscaler.resources | nindent 2 }}
submitter:
  {{- toYaml .Values.jobs.submitter.resources | nindent 2 }}
metrics: {{ .Values.metricsSidecar.enabled }}
metrics_resources:
  {{- toYaml .Values.metricsSidecar.resources | nindent 2 }}
{{- with .Values.jobs.queue }}
queue: {{ . | quote }}
{{- end }}
{{- with .Values.jobs.priorityClassName }}
priority_class: {{ . | quote }}
{{- end }}
{{- end -}}
