"""Renders a chat template, in a process of its own, since a template is code of a stranger's.

Jinja's sandbox keeps it from files and from Python; nothing but the limits of a process keeps it
from a loop without end or a text without end. One JSON object in, {"template", "variables",
"contents", "seconds", "memory_bytes", "characters"}; one out, {"prompts"} or {"error"}.

The environment is that of transformers (utils/chat_template_utils.py), which takes seconds to
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

from svdjobs.evaluation.confined import confine, limit_seconds


class Generation(Extension):
    """`{% generation %}` marks what a model said; to a prompt it adds nothing."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """What is between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(template: str, variables: dict[str, Any], contents: Sequence[str]) -> list[str]:
    """The prompt for each content, as a single message of the user's.

    Raises:
        Exception: whatever the template raises.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
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
    """Render what standard input asks for."""
    asked = json.load(sys.stdin)
    confine(asked["memory_bytes"])
    limit_seconds(asked["seconds"])
    reply: dict[str, Any]
    try:
        prompts = render(asked["template"], asked["variables"], asked["contents"])
        longest = max(map(len, prompts), default=0)
        if longest > asked["characters"]:
            reply = {"error": f"makes a prompt of {longest:,} characters"}
        else:
            reply = {"prompts": prompts}
    except MemoryError:
        reply = {"error": f"needs more than {asked['memory_bytes'] >> 20} MiB"}
    except Exception as error:  # a template may raise what it likes
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        reply = {"error": f"does not take a single user message: {said:.200}"}
    json.dump(reply, sys.stdout)


if __name__ == "__main__":
    main()
