"""Tell people that a workflow has ended: one POST to a webhook, or one line in the log."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request

from svdjobs.errors import ConfigError, UnavailableError
from svdjobs.progress import say

# From the Secret, since whoever knows a webhook's address may post to it.
URL_VARIABLE = "SVDJOBS_NOTIFY_URL"
TIMEOUT_SECONDS = 20


def run(workflow: str, status: str, store_url: str) -> None:
    """Say how a workflow ended. `text` is what chat webhooks show; the rest is for programs.

    Raises:
        ConfigError: the webhook's address is no http(s) address, or it refuses.
        UnavailableError: it does not answer for now.
    """
    report = f"{store_url}/report/report.html"
    words = f"{workflow}: {status}. Report: {report}"
    say(words)
    url = os.environ.get(URL_VARIABLE)
    if not url:
        return
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"{URL_VARIABLE} is no http(s) address.")
    document = {"text": words, "workflow": workflow, "status": status, "report": report}
    request = urllib.request.Request(
        url, json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 500:
            raise ConfigError(f"the webhook of {URL_VARIABLE} refused: {error.code}.") from None
        raise UnavailableError(f"the webhook of {URL_VARIABLE} answered {error.code}.") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UnavailableError(
            f"the webhook of {URL_VARIABLE} cannot be reached: {reason}."
        ) from None
