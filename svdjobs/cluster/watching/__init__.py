"""Follow a Workflow: its state, its logs, and how both are shown."""
