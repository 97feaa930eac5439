"""A cluster: its API, what is submitted there, and what of it is watched. No stage imports this."""
