# shellcheck shell=bash
# Validates the Kubernetes manifests, and the output of the overlays, against the Kubernetes schema.
files=(packaging/kubernetes/*.yaml)
overlays=(packaging/kubernetes/overlays/*/)
for file in "${files[@]}"; do
    kubernetes-validate --strict "$file"
done
for overlay in "${overlays[@]}"; do
    kubectl kustomize "$overlay" >"$TMPDIR/overlay.yaml"
    kubernetes-validate --strict "$TMPDIR/overlay.yaml"
done
