# shellcheck shell=bash
# Holds the Kubernetes manifests to the schema of Kubernetes, as files and as the overlays that are applied.
files=(packaging/kubernetes/*.yaml)
overlays=(packaging/kubernetes/overlays/*/)
for file in "${files[@]}"; do
    kubernetes-validate --strict "$file"
done
for overlay in "${overlays[@]}"; do
    kubectl kustomize "$overlay" >"$TMPDIR/overlay.yaml"
    kubernetes-validate --strict "$TMPDIR/overlay.yaml"
done
