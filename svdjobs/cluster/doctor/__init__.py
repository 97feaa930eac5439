"""Whether a cluster, a store and this machine would do."""
