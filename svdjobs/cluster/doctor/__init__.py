"""Checks of a store and a cluster, for `svdjobs doctor`."""
