"""What a Workflow is doing, told and drawn."""
