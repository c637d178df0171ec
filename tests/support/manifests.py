"""Where the manifests lie, and which overlays the tests look at: one of each sort."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / "deploy/k8s"
LOOKED_AT = ("dev", "lumi-aif", "relay-a", "template-antenna", "flux", "argocd")
