"""Render a chat template in a process of its own, since a template is a stranger's code.

Jinja's sandbox keeps it from files and from Python, but only the limits of a process keep it from
an endless loop or an endless text. Standard input is one JSON object, {"template", "variables",
"contents", "seconds", "memory_bytes", "characters"}; standard output is {"prompts"} or {"error"}.

The Jinja environment is that of transformers (utils/chat_template_utils.py), which takes seconds to
import; a test renders the same templates with both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from svdjobs.evaluation.sandbox import confine, limit_seconds


class GenerationTag(Extension):
    """`{% generation %}`, which marks what a model said; it adds nothing to a prompt."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Keep what is between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(template: str, variables: dict[str, Any], contents: Sequence[str]) -> list[str]:
    """The prompt for each content, as a single user message.

    Raises:
        Exception: whatever the template raises.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    compiled = environment.from_string(template)
    return [
        compiled.render(
            messages=[{"role": "user", "content": content}], tools=None, documents=None,
            add_generation_prompt=True, **variables,
        )
        for content in contents
    ]  # fmt: skip


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise TemplateError(message)


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    confine(request["memory_bytes"])
    limit_seconds(request["seconds"])
    reply: dict[str, Any]
    try:
        prompts = render(request["template"], request["variables"], request["contents"])
        longest = max(map(len, prompts), default=0)
        if longest > request["characters"]:
            reply = {"error": f"makes a prompt of {longest:,} characters"}
        else:
            reply = {"prompts": prompts}
    except MemoryError:
        reply = {"error": f"needs more than {request['memory_bytes'] >> 20} MiB"}
    except Exception as error:  # a template may raise what it likes
        text = str(error).splitlines()[0] if str(error) else ""
        name = type(error).__name__
        reply = {"error": f"fails on a single user message with {name}: {text:.200}".rstrip(": ")}
    json.dump(reply, sys.stdout)


if __name__ == "__main__":
    main()
