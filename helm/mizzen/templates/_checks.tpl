{{/*
What the release needs and values alone cannot promise: operators, and values that contradict each other.
Each failure is one sentence that says what to do. Included once, where the RayService is;
what monitoring needs is checked where it is made.
*/}}

{{- define "mizzen.check" -}}
{{- include "mizzen.checkApis" . -}}
{{- include "mizzen.checkAuth" . -}}
{{- include "mizzen.checkStore" . -}}
{{- if .Values.apps -}}
{{- include "mizzen.checkApps" . -}}
{{- include "mizzen.checkUpgrade" . -}}
{{- include "mizzen.checkFaultTolerance" . -}}
{{- end -}}
{{- end -}}

{{- define "mizzen.checkApis" -}}
{{- $has := .Capabilities.APIVersions -}}
{{- if not ($has.Has "ray.io/v1/RayJob") -}}
{{- fail "\n\nThe cluster has no KubeRay (no ray.io/v1 RayJob). Install its operator, 1.7 or later, and its CRDs: helm install kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm/ --version 1.7.0 --namespace kuberay-system --create-namespace. Where there is no cluster to ask (helm template), add --api-versions ray.io/v1/RayJob --api-versions ray.io/v1/RayService.\n" -}}
{{- end -}}
{{- if and .Values.apps (not ($has.Has "ray.io/v1/RayService")) -}}
{{- fail "\n\napps asks for serving, and the cluster has no ray.io/v1 RayService. Install KubeRay's operator, 1.7 or later, with all of its CRDs (see https://docs.ray.io/en/latest/cluster/kubernetes), or apply the missing one; where there is no cluster to ask (helm template), add --api-versions ray.io/v1/RayService.\n" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not (include "mizzen.hasGateway" .)) -}}
{{- fail "\n\nhttpRoute.enabled asks for an HTTPRoute, and the cluster has no gateway.networking.k8s.io/v1. Install the Gateway API (kubectl apply -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.4.0/standard-install.yaml) and a controller for it, or use ingress.enabled=true.\n" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "\n\nhttpRoute.enabled needs httpRoute.parentRefs: a route that no Gateway holds gets no request (kubectl get gateways -A lists them).\n" -}}
{{- end -}}
{{- end -}}

{{- define "mizzen.checkAuth" -}}
{{- with .Values.auth -}}
{{- if and (not .enabled) (not .allowAnonymous) -}}
{{- fail "\n\nauth.enabled is false, so whoever reaches an endpoint could use the models. If that is meant, set auth.allowAnonymous=true as well.\n" -}}
{{- end -}}
{{- if and (eq .source "store") .existingSecret -}}
{{- fail (printf "\n\nauth.existingSecret is %s while auth.source=store keeps the keys in the model store. Set one of them; a key for helm test goes into tests.existingSecret.\n" .existingSecret) -}}
{{- end -}}
{{- if and .enabled .allowAnonymous -}}
{{- fail "\n\nauth.allowAnonymous is true while auth.enabled asks for API keys. Set one of them.\n" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mizzen.checkStore" -}}
{{- $url := include "mizzen.storeUrl" . -}}
{{- if and (hasPrefix "file:" $url) (ne $url (printf "file://%s" (include "mizzen.storeMountPath" .))) -}}
{{- fail (printf "\n\nstore.url is %s: in a pod a folder is only kept if it is a volume, and that is mounted at %s. Leave store.url empty for a volume, or name a bucket.\n" $url (include "mizzen.storeMountPath" .)) -}}
{{- end -}}
{{- if and .Values.store.persistence.existingClaim (not (include "mizzen.storeClaim" .)) -}}
{{- fail (printf "\n\nstore.persistence.existingClaim is %s while store.url is %s. Set one of them.\n" .Values.store.persistence.existingClaim $url) -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) .Values.serviceAccount.annotations -}}
{{- fail "\n\nserviceAccount.annotations need an account of ours: set serviceAccount.create=true, or annotate the account that exists and name it in serviceAccount.name.\n" -}}
{{- end -}}
{{- end -}}

{{/* Replicas against workers: a worker without a replica runs no proxy and never gets ready. */}}
{{- define "mizzen.checkApps" -}}
{{- $groups := (include "mizzen.workerGroups" . | fromJson).groups -}}
{{- $seen := dict -}}
{{- $workers := 0 -}}{{- $cpus := 0.0 -}}{{- $gpus := 0 -}}{{- $widest := 0.0 -}}
{{- range $groups -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "\n\nserving.workerGroups has two groups with the name %s. Each needs its own.\n" .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- $most := $.Values.serving.autoscaling.enabled | ternary .maxReplicas .minReplicas -}}
{{- if and $.Values.serving.autoscaling.enabled (lt (int .maxReplicas) (int .minReplicas)) -}}
{{- fail (printf "\n\nThe worker group %s has maxReplicas %d below minReplicas %d.\n" .name (int .maxReplicas) (int .minReplicas)) -}}
{{- end -}}
{{- $workers = add $workers (int .minReplicas) -}}
{{- $cpus = addf $cpus (mulf .numCpus $most) -}}
{{- $gpus = add $gpus (mul (int .gpus) (int $most)) -}}
{{- if and (gt (int $most) 0) (gt (float64 .numCpus) $widest) -}}{{- $widest = float64 .numCpus -}}{{- end -}}
{{- end -}}
{{- $replicas := 0 -}}{{- $wanted := 0.0 -}}{{- $wantedGpus := 0.0 -}}
{{- range .Values.apps -}}
{{- $num := .replicas | default 1 -}}
{{- if kindIs "map" $num -}}{{- $num = hasKey $num "min" | ternary $num.min 1 -}}{{- end -}}
{{- $each := hasKey . "num_cpus" | ternary .num_cpus 1 -}}
{{- if gt (float64 $each) $widest -}}
{{- fail (printf "\n\nA replica of the app %s takes %v CPUs, and no worker has more than %v. Lower its num_cpus, or raise serving.worker.numCpus.\n" .name $each $widest) -}}
{{- end -}}
{{- $replicas = add $replicas (int $num) -}}
{{- $wanted = addf $wanted (mulf $each $num) -}}
{{- $wantedGpus = addf $wantedGpus (mulf (.num_gpus | default 0) $num) -}}
{{- if and (gt (float64 (.num_gpus | default 0)) 0.0) (eq (int $gpus) 0) -}}
{{- fail (printf "\n\nThe app %s asks for GPUs, and no worker group has any. Add a group with gpus: 1 to serving.workerGroups.\n" .name) -}}
{{- end -}}
{{- end -}}
{{- if gt $wanted $cpus -}}
{{- fail (printf "\n\nThe apps' replicas take %v CPUs together, and the workers have %v. Lower num_cpus or replicas of the apps, or raise numCpus or the number of workers in serving.workerGroups.\n" $wanted $cpus) -}}
{{- end -}}
{{- if gt $wantedGpus (float64 $gpus) -}}
{{- fail (printf "\n\nThe apps' replicas take %v GPUs together, and the workers have %v. Lower num_gpus or replicas of the apps, or add workers with GPUs to serving.workerGroups.\n" $wantedGpus $gpus) -}}
{{- end -}}
{{- if and (gt (int $replicas) 0) (lt (int $replicas) (int $workers)) -}}
{{- fail (printf "\n\nThe values start %d workers and %d replicas: a worker without a replica never gets ready. Lower minReplicas in serving.workerGroups, or raise the apps' replicas.\n" (int $workers) (int $replicas)) -}}
{{- end -}}
{{- end -}}

{{- define "mizzen.checkUpgrade" -}}
{{- $serving := .Values.serving -}}
{{- if eq (include "mizzen.upgradeStrategy" .) "NewClusterWithIncrementalUpgrade" -}}
{{- if not (include "mizzen.hasGateway" .) -}}
{{- fail "\n\nserving.upgrade.strategy=NewClusterWithIncrementalUpgrade needs the Gateway API, and the cluster has no gateway.networking.k8s.io/v1. Install it (kubectl apply -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.4.0/standard-install.yaml) with a controller for it, or use NewCluster.\n" -}}
{{- end -}}
{{- if not $serving.upgrade.gatewayClassName -}}
{{- fail "\n\nserving.upgrade.strategy=NewClusterWithIncrementalUpgrade needs serving.upgrade.gatewayClassName: the class of the Gateway that KubeRay makes (kubectl get gatewayclasses lists them).\n" -}}
{{- end -}}
{{- if not $serving.autoscaling.enabled -}}
{{- fail "\n\nserving.upgrade.strategy=NewClusterWithIncrementalUpgrade needs serving.autoscaling.enabled=true: KubeRay refuses it otherwise.\n" -}}
{{- end -}}
{{- if or .Values.ingress.enabled .Values.httpRoute.enabled -}}
{{- fail "\n\nWith an incremental upgrade requests must come through the Gateway that KubeRay makes, or they meet workers that have gone. Set ingress.enabled=false and httpRoute.enabled=false, or serving.upgrade.strategy=NewCluster.\n" -}}
{{- end -}}
{{- end -}}
{{- if ge (int $serving.drainSeconds) (int $serving.terminationGracePeriodSeconds) -}}
{{- fail "\n\nserving.drainSeconds is not less than serving.terminationGracePeriodSeconds, so pods would be killed while they drain.\n" -}}
{{- end -}}
{{- end -}}

{{- define "mizzen.checkFaultTolerance" -}}
{{- with .Values.serving.faultTolerance -}}
{{- if and (eq .mode "redis") (not .redis.address) -}}
{{- fail "\n\nserving.faultTolerance.mode=redis needs serving.faultTolerance.redis.address, for instance redis:6379.\n" -}}
{{- end -}}
{{- if and (eq .mode "rocksdb") .rocksdb.claimName (ne (include "mizzen.upgradeStrategy" $) "None") -}}
{{- fail (printf "\n\nserving.faultTolerance.rocksdb.claimName cannot go with the upgrade strategy %s: the new cluster would wait for a database that the old one has locked. Give size and storageClassName instead, or set serving.upgrade.strategy=None.\n" (include "mizzen.upgradeStrategy" $)) -}}
{{- end -}}
{{- if and (ne .mode "redis") .redis.address -}}
{{- fail (printf "\n\nserving.faultTolerance.redis.address is set while mode is %s. Set mode to redis.\n" .mode) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
A warning for each Secret that the values name and the cluster has not, if there is a cluster to ask. No
failure: something else may make it in a moment, and pods wait for it.
*/}}
{{- define "mizzen.missingSecrets" -}}
{{- $ns := .Release.Namespace -}}
{{- if lookup "v1" "ServiceAccount" $ns "default" -}}
{{- $named := dict "store.existingSecret" .Values.store.existingSecret -}}
{{- if .Values.apps -}}
{{- $_ := set $named "auth.existingSecret" .Values.auth.existingSecret -}}
{{- $_ := set $named "tests.existingSecret" (eq .Values.auth.source "store" | ternary .Values.tests.existingSecret "") -}}
{{- $_ := set $named "ray.tokenAuth.existingSecret" .Values.ray.tokenAuth.existingSecret -}}
{{- $_ := set $named "serving.faultTolerance.redis.existingSecret" .Values.serving.faultTolerance.redis.existingSecret -}}
{{- end -}}
{{- range $value, $secret := $named -}}
{{- if and $secret (not (lookup "v1" "Secret" $ns $secret)) }}
WARNING: {{ $value }} names the Secret {{ $secret }}, which is not in the namespace {{ $ns }} yet; pods wait for it.
{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
