r"""Make untrusted text safe to show: one function for each medium.

Names of tensors and files, problems, answers, settings and the records of other runs are written by
others. None of them may end a line of a log, move the cursor of a terminal, give a CI system a
command, become markup of a page or a formula of a spreadsheet, or show a password. A character that
a medium would act on is shown by its number, as Python writes it: `\n`, `\x1b`, `\u202e`.

    line       a name, a cell or a sentence within one line of a terminal or a log
    message    an error or a notice of svdjobs, which may have several lines
    screen     several lines for a terminal
    markdown   a cell or a sentence of Markdown; backticks stay
    code       a name or a command as a code span of Markdown
    html       a value of an HTML template that escapes `<` and `&` itself
    csv_cell   a cell that a spreadsheet opens
    xml        a value of JUnit XML
    latex      a cell of a LaTeX table
"""

from __future__ import annotations

import re

# Invisible characters with an effect: control characters, ends of lines, marks that change the
# direction of the text (https://trojansource.codes), lone surrogates, and what XML forbids.
_UNSEEN = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    r"\ud800-\udfff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f"
)
_ACTS = re.compile(f"[{_UNSEEN}]")
# GitHub reads a command from a line that begins with `::`, with or without indentation. GitHub and
# Azure read one from `##[…]` and `##vso[…]` anywhere, TeamCity from `##teamcity[…]`.
_COMMAND = re.compile(r"(?m)^(?P<indent>[ \t]*):(?=:)|#(?=#\w*\[)")
# RFC 3986: user information ends at the last @ before the path, the query or the fragment. A URL
# that pathlib has normalised has one slash left (`https:/user:password@host`).
_USERINFO = re.compile(r"(?<=://)[^\s/?#\"'<>]*@|(?<=[a-zA-Z0-9]:/)[^\s/?#\"'<>:]*:[^\s/?#\"'<>]*@")
# Secrets in the query of a URL: S3's and Azure's signatures, and tokens.
_SIGNED = re.compile(
    r"(?i)(?P<key>[?&][\w.-]*(?:signature|credential|token|password|secret|accesskeyid|sig)=)[^&\s\"'<>]+"
)
HIDDEN = "***"

_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
# `](` makes the text before it a link or an image; `][` and `]:` do so by a reference.
_LINK = re.compile(r"\](?=[(\[:])")
_HEADING = re.compile(r"^(?=#)")
# GitHub and GitLab notify the person or team that an @ names. An invisible comment prevents that.
_MENTION = re.compile(r"(?<!\w)@(?=\w)")
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"
_NUMBER = r"[-+]?(?:\d[\d,]*\.?\d*(?:e[-+]?\d+)?|inf|nan)"
# A number, with or without an interval (`-0.31`, `+1.20 [-0.31, +2.71]`), or a dash for none.
_FIGURES = re.compile(rf"-|{_NUMBER}(?: \[{_NUMBER}, {_NUMBER}\])?", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """The text without users, passwords and signatures in its URLs: `https://***@host/…`."""
    if ":/" not in text:
        return text
    return _SIGNED.sub(rf"\g<key>{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", text))


def line(text: str) -> str:
    """Escape a name, a cell or a sentence for one line of a terminal or a log."""
    shown = _ACTS.sub(_by_number, without_secrets(text))
    return _COMMAND.sub(lambda found: f"{found['indent'] or ''}{_by_number(found)}", shown)


def _by_number(found: re.Match[str]) -> str:
    character = found[0][-1]
    if character in ":#":
        return f"\\x{ord(character):02x}"
    return character.encode("unicode_escape").decode()


def screen(text: str) -> str:
    """Escape text line by line for a terminal or a log; its line feeds stay."""
    return "\n".join(line(part) for part in text.split("\n"))


def message(text: str) -> str:
    """Escape an error or a notice, and indent the lines after the first.

    An indented line cannot look like another message or another line of the log.
    """
    first, *more = screen(text).split("\n")
    return "\n".join([first, *(part if part[:1] in ("", " ") else f"  {part}" for part in more)])


def uncoloured(text: str) -> str:
    """A log line of another program without its colour codes."""
    return _COLOUR.sub("", text)


def markdown(text: str) -> str:
    """Escape a cell or a sentence for Markdown: it can contain no tag, link, image, cell border,
    heading or mention."""
    shown = line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = _MENTION.sub("@<!-- -->", shown)
    return _HEADING.sub(r"\\", _LINK.sub(r"]\\", shown).replace("|", r"\|").replace("![", r"!\["))


def code(text: str) -> str:
    """A name or a command as a code span of Markdown, even if it contains backticks."""
    shown = line(text)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    space = " " if shown[:1] == "`" or shown[-1:] == "`" else ""
    return f"{'`' * (longest + 1)}{space}{shown}{space}{'`' * (longest + 1)}"


def html(value: object) -> object:
    """Escape a value of a template that escapes tags itself; markup of svdjobs stays as it is."""
    return line(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def csv_cell(text: str) -> str:
    """Escape a CSV cell: an apostrophe turns a formula into text; numbers stay as they are."""
    shown = line(text)
    if shown.lstrip()[:1] not in _FORMULA or not shown.strip() or _FIGURES.fullmatch(shown):
        return shown
    return f"'{shown}"


def xml(text: str) -> str:
    """Escape the characters that XML forbids; the XML writer escapes tags itself."""
    return line(text)


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "‖": r"$\|$", "Δ": r"$\Delta$", "φ": r"$\varphi$", "α": r"$\alpha$", "×": r"$\times$",
    "·": r"$\cdot$", "−": "$-$", "→": r"$\to$", "±": r"$\pm$", "²": "$^2$", "′": "$'$",
    "k̂": r"$\hat{k}$", "√": r"$\surd$", "…": r"\ldots{}", "≥": r"$\ge$",
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
}  # fmt: skip
_LATEX_SIGN = re.compile("|".join(map(re.escape, sorted(_LATEX, key=len, reverse=True))))


def latex(text: str) -> str:
    """Escape a cell of a LaTeX table: no command, no mathematics, no comment."""
    return _LATEX_SIGN.sub(lambda found: _LATEX[found[0]], line(text))


def shortened(text: str, length: int) -> str:
    """Text of at most `length` characters: the middle of a longer text is left out."""
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"
