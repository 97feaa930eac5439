r"""Text from elsewhere, made fit for the medium that shows it: one function for each medium.

Names of tensors, files and tasks, problems, answers, settings and the records of another run are
written by someone else. None of them may end a line of a log, move a terminal's cursor, give a CI
system a command, be markup of a page or a formula of a spreadsheet, or show a password. What a
medium would act on is shown by its number, as Python writes it: `\n`, `\x1b`, `\u202e`.

    line       a name, a cell or a sentence within one line of a terminal or a log
    message    an error or a remark of ours, which may go on over several lines
    screen     lines that were put together from such parts, for a terminal
    markdown   a cell or a sentence of Markdown, with our own backticks
    code       a name or a command as a code span of Markdown
    html       a value of an HTML template that escapes `<` and `&` itself
    csv_cell   a cell that a spreadsheet opens
    xml        a value of JUnit XML
    label      a name in a figure
"""

from __future__ import annotations

import re

# What is not seen but acts: control characters, ends of lines, marks that turn the direction of
# what follows (https://trojansource.codes), halves of characters, and what XML forbids.
_UNSEEN = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    r"\ud800-\udfff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f"
)
_ACTS = re.compile(f"[{_UNSEEN}]")
# GitHub takes commands from lines that begin with `::`, spaces or not, and, as Azure does, from
# `##[…]` and `##vso[…]` anywhere; TeamCity from `##teamcity[…]`.
_COMMAND = re.compile(r"(?m)^(?P<indent>[ \t]*):(?=:)|#(?=#\w*\[)")
# RFC 3986: user information ends at the last @ before a path, a query or a fragment. Of an address
# that was taken for a path one slash is left.
_USERINFO = re.compile(r"(?<=://)[^\s/?#\"'<>]*@|(?<=[a-zA-Z0-9]:/)[^\s/?#\"'<>:]*:[^\s/?#\"'<>]*@")
# What signed addresses carry: S3's and Azure's signatures, tokens in a query.
_SIGNED = re.compile(
    r"(?i)(?P<key>[?&][\w.-]*(?:signature|credential|token|password|secret|accesskeyid|sig)=)[^&\s\"'<>]+"
)
HIDDEN = "***"

_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
# `](` makes a link or an image of what stands before it, `][` and `]:` by a reference.
_LINK = re.compile(r"\](?=[(\[:])")
_HEADING = re.compile(r"^(?=#)")
# GitHub and GitLab write to the person or the team that an @ names; a comment between is not seen.
_MENTION = re.compile(r"(?<!\w)@(?=\w)")
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"
_NUMBER = r"[-+]?(?:\d[\d,]*\.?\d*(?:e[-+]?\d+)?|inf|nan)"
# A number, with its interval: `-0.31`, `+1.20 [-0.31, +2.71]`; a dash for none.
_FIGURES = re.compile(rf"-|{_NUMBER}(?: \[{_NUMBER}, {_NUMBER}\])?", re.IGNORECASE)
LABEL_LENGTH = 40
"""Longest name in a figure: a longer one would leave no room to draw in."""


def without_secrets(text: str) -> str:
    """Text whose addresses name no user, password or signature: `https://***@host/…`."""
    if ":/" not in text:
        return text
    return _SIGNED.sub(rf"\g<key>{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", text))


def line(text: str) -> str:
    """A name, a cell or a sentence as a part of one line of a terminal or a log."""
    shown = _ACTS.sub(_by_number, without_secrets(text))
    return _COMMAND.sub(lambda found: f"{found['indent'] or ''}{_by_number(found)}", shown)


def _by_number(found: re.Match[str]) -> str:
    character = found[0][-1]
    if character in ":#":
        return f"\\x{ord(character):02x}"
    return character.encode("unicode_escape").decode()


def screen(text: str) -> str:
    """Lines for a terminal or a log: every one is shown as one, and none is a command."""
    return "\n".join(line(part) for part in text.split("\n"))


def message(text: str) -> str:
    """An error or a remark: lines after its first are indented, so that none looks like another
    message or another line of a log."""
    first, *more = screen(text).split("\n")
    return "\n".join([first, *(part if part[:1] in ("", " ") else f"  {part}" for part in more)])


def uncoloured(text: str) -> str:
    """Another program's line of a log without its colours."""
    return _COLOUR.sub("", text)


def markdown(text: str) -> str:
    """A cell or a sentence of Markdown: no tag, link, image, cell or heading begins in it, and
    nobody is written to."""
    shown = line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = _MENTION.sub("@<!-- -->", shown)
    return _HEADING.sub(r"\\", _LINK.sub(r"]\\", shown).replace("|", r"\|").replace("![", r"!\["))


def code(text: str) -> str:
    """A name or a command as a code span of Markdown, whatever backticks it has."""
    shown = line(text)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    space = " " if shown[:1] == "`" or shown[-1:] == "`" else ""
    return f"{'`' * (longest + 1)}{space}{shown}{space}{'`' * (longest + 1)}"


def html(value: object) -> object:
    """A value of a template, which escapes tags itself; markup of ours stays as it is."""
    return line(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def csv_cell(text: str) -> str:
    """A cell: what a spreadsheet would compute becomes text by an apostrophe, numbers stay."""
    shown = line(text)
    if shown.lstrip()[:1] not in _FORMULA or not shown.strip() or _FIGURES.fullmatch(shown):
        return shown
    return f"'{shown}"


def xml(text: str) -> str:
    """A value of JUnit XML, whose writer escapes tags itself but not what XML has no place for."""
    return line(text)


def label(text: str) -> str:
    """A name in a figure: matplotlib reads `$` as mathematics and hides what begins with `_`."""
    shown = line(text)
    if len(shown) > LABEL_LENGTH:
        shown = f"{shown[: LABEL_LENGTH // 2]}…{shown[1 - LABEL_LENGTH // 2 :]}"
    return f"{' ' if shown.startswith('_') else ''}{shown}".replace("$", r"\$")
