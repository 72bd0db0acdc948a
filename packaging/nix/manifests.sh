# shellcheck shell=bash
# Holds the Kubernetes manifests to the schema of Kubernetes, as files and as the overlays that are applied.
shopt -s nullglob
for file in packaging/kubernetes/*.yaml; do
    kubernetes-validate --strict "$file"
done
for overlay in packaging/kubernetes/overlays/*/; do
    kubectl kustomize "$overlay" >"$TMPDIR/overlay.yaml"
    kubernetes-validate --strict "$TMPDIR/overlay.yaml"
done
