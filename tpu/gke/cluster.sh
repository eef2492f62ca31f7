# shellcheck shell=bash
# Sourced by the scripts of this folder: calls to the cluster, and the manifest of the job.

# The account of the pods, within the cluster.
ACCOUNT=jaxfc

# Settings that only GKE has, checked before anything is created.
need_gke() {
    need PROJECT ZONE NAME TYPE
    if [ "$SLICES" -gt 1 ] && [ "$HOSTS" = 1 ]; then
        die "--slices is $SLICES, but GKE joins slices of several hosts only, and $TYPE has one."
    fi
}

# kubectl, bound to this cluster whichever is the current one.
cluster() {
    run kubectl --context="gke_${PROJECT}_${ZONE}_${CLUSTER}" "$@"
}

# A JSON string, which is YAML too, that Kubernetes passes on as it is: to it, $(NAME) is a variable and $$ is $.
yaml_string() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    text=${text//$'\t'/\\t}
    printf '"%s"' "${text//\$/\$\$}"
}

# The JobSet: one job per slice, one pod per host, each running COMMAND. When a pod fails, all jobs start again with the
# same command, up to RESTARTS times; code 2, with which a run refuses its settings, ends the set at once.
manifest() {
    local accelerator word
    case $GENERATION in
        v5e) accelerator=tpu-v5-lite-podslice ;;
        tpu7x) accelerator=tpu7x ;;
        *) accelerator=tpu-$GENERATION-slice ;;
    esac
    cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $RESTARTS
    rules:
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: $SLICES
      template:
        spec:
          parallelism: $HOSTS
          completions: $HOSTS
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: train, operator: In, values: [2]}
          template:
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"
            spec:
              restartPolicy: Never
              serviceAccountName: $ACCOUNT
              terminationGracePeriodSeconds: 300
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $TOPOLOGY
              containers:
                - name: train
                  image: $(yaml_string "$IMAGE")
                  env:
                    - {name: MOUNT, value: $(yaml_string "$MOUNT")}
                  ports:
                    - containerPort: 8471
                    - containerPort: 8080
                  resources:
                    requests: {google.com/tpu: $CHIPS_PER_HOST}
                    limits: {google.com/tpu: $CHIPS_PER_HOST}
                  volumeMounts:
                    - {name: bucket, mountPath: $(yaml_string "$MOUNT")}
                  args:
END
    for word in "${COMMAND[@]}"; do
        echo "                    - $(yaml_string "$word")"
    done
    cat <<END
              volumes:
                - name: bucket
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $(yaml_string "$BUCKET")
                      mountOptions: implicit-dirs,metadata-cache:ttl-secs:0
END
}
