"""Kubernetes: its API, manifests, submission, watching and checks. No stage imports this."""
