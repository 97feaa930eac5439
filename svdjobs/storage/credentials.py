"""What to do about credentials that a server no longer accepts."""

from __future__ import annotations

import os


def renew(here: str) -> str:
    """Words for the user: in a pod of a cluster, or `here` on a machine."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return (
            "Renew the Secret that pods get them from (svdjobs-store, unless the settings or the "
            "chart's store.existingSecret name another) or the role of their account, then submit "
            "the sweep again"
        )
    return f"{here}, then run the same command again"
