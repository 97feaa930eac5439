"""Tell people that a Workflow has ended: a line in the log, and one POST to a webhook."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request

from svdjobs.errors import ConfigError, UnavailableError
from svdjobs.progress import say

# The address comes from a Secret: everyone who knows it may post to the webhook.
URL_VARIABLE = "SVDJOBS_NOTIFY_URL"
TIMEOUT_SECONDS = 20


def run(workflow: str, status: str, store_url: str) -> None:
    """Log the phase in which a Workflow ended, and post it to the webhook if there is one.

    Chat webhooks show the field `text`; the other fields are for programs.

    Raises:
        ConfigError: the address is not http(s), or the webhook refuses the request.
        UnavailableError: the webhook does not answer, or answers with a server error.
    """
    report = f"{store_url}/report/report.html"
    words = f"{workflow}: {status}. Report: {report}"
    say(words)
    url = os.environ.get(URL_VARIABLE)
    if not url:
        return
    if not url.startswith(("https://", "http://")):
        raise ConfigError(
            f"{URL_VARIABLE} must be an address that begins with https:// or http://."
        )
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
            raise ConfigError(
                f"the webhook of {URL_VARIABLE} refused the message: HTTP {error.code}. Check its "
                f"address."
            ) from None
        raise UnavailableError(
            f"the webhook of {URL_VARIABLE} answered HTTP {error.code}."
        ) from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UnavailableError(
            f"the webhook of {URL_VARIABLE} cannot be reached: {reason}."
        ) from None
