"""Place and chain what `svdjobs.stages` computes, on a cluster. Stages never import this."""
