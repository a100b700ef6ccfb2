{{/* What the monitors have in common. */}}

{{/*
Labels of every series, so that rules and dashboards can tell releases and kinds of pods apart.
*/}}
{{- define "mizzen.monitorRelabelings" -}}
- {sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_instance], targetLabel: release}
- {sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_component], targetLabel: component}
- {sourceLabels: [__meta_kubernetes_pod_label_ray_io_cluster], targetLabel: ray_cluster}
- {sourceLabels: [__meta_kubernetes_pod_label_ray_io_node_type], targetLabel: node_type}
{{- end -}}

{{/* What is read from each pod. Takes root, interval, raySeries. */}}
{{- define "mizzen.monitorEndpoints" -}}
- port: mizzen-metrics
  path: /metrics
  interval: {{ .interval }}
  relabelings:
    {{- include "mizzen.monitorRelabelings" .root | nindent 4 }}
- port: haproxy
  path: /metrics
  interval: {{ .interval }}
  relabelings:
    {{- include "mizzen.monitorRelabelings" .root | nindent 4 }}
- port: metrics
  path: /metrics
  interval: {{ .interval }}
  relabelings:
    {{- include "mizzen.monitorRelabelings" .root | nindent 4 }}
  metricRelabelings:
    - {action: keep, sourceLabels: [__name__], regex: {{ .raySeries | quote }}}
    - {action: labeldrop, regex: "otel_scope_.*|SessionName|Version"}
{{- end -}}

{{/* Takes root, value, kind. */}}
{{- define "mizzen.requireMonitoring" -}}
{{- if not (.root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind)) -}}
{{- fail (printf "\n\nmonitoring.%s.enabled asks for a %s, and the cluster has no monitoring.coreos.com/v1 %s. Install the Prometheus operator (helm install monitoring kube-prometheus-stack --repo https://prometheus-community.github.io/helm-charts --namespace monitoring --create-namespace), or set monitoring.%s.enabled=false.\n" .value .kind .kind .value) -}}
{{- end -}}
{{- end -}}

{{/*
Whether a group of rules has anything to look at; empty if not. Takes root, group. Rules about what serves are left out
where nothing is served (an alert about a missing head would never end), those about certificates where the Ingress
asks for none.
*/}}
{{- define "mizzen.hasUseForRules" -}}
{{- if eq .group "mizzen-kubernetes-serving" -}}
{{- if .root.Values.apps }}yes{{ end -}}
{{- else if eq .group "mizzen-kubernetes-certificates" -}}
{{- if and .root.Values.ingress.enabled .root.Values.ingress.tls }}yes{{ end -}}
{{- else }}yes{{ end -}}
{{- end -}}

{{/*
A dashboard with a link to all runbooks, and on each panel whose description names one a link to that. Only where they
have an address: else Grafana would take a path for one of its own pages. Takes text, runbooks.
*/}}
{{- define "mizzen.withRunbookLinks" -}}
{{- $board := fromJson .text -}}
{{- $link := dict "type" "link" "icon" "doc" "tooltip" "What to do about each alert" "tags" list "asDropdown" false "includeVars" false "keepTime" false "targetBlank" true -}}
{{- $all := merge (dict "title" "Runbooks" "url" (printf "%s/README.md" .runbooks)) $link -}}
{{- $_ := set $board "links" (append $board.links $all) -}}
{{- range $panel := $board.panels -}}
{{- with regexFind "docs/runbooks/[A-Za-z]+[.]md" (default "" $panel.description) -}}
{{- $title := printf "Runbook: %s" (base . | trimSuffix ".md") -}}
{{- $_ := set $panel "links" (list (merge (dict "title" $title "url" .) $link)) -}}
{{- end -}}
{{- end -}}
{{- toPrettyJson $board -}}
{{- end -}}
