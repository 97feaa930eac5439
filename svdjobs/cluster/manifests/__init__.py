"""Settings in, the YAML of Workflows and Jobs out."""
