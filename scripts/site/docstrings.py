"""A griffe extension: our docstrings as Markdown, and signatures of Pydantic classes.

- Doctests and literal blocks become fenced code.
- ``Key init args:``, LangChain's word, is read as ``Args:``. Other headings of a docstring become bold text.
- Validators are left out: Pydantic calls them.
- A Pydantic class has no ``__init__`` to read. It gets one with the fields that its docstring documents.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import griffe

SECTIONS = {"Args", "Attributes", "Returns", "Raises", "Yields", "Receives", "Examples", "Example", "Note", "Warning"}
HEADING = re.compile(r"^(?P<title>[A-Z][A-Za-z ]+):\n(?P<body>(?:(?: {4}.*)?\n)+)", re.M)
DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?P=indent)(?! *$).*)*", re.M)
LITERAL = re.compile(r"::\n\n(?P<body>(?:(?P<indent> +).*\n)(?:(?:(?P=indent).*)?\n)*)")


def markdown(text: str) -> str:
    """Return a docstring whose code is fenced, and whose headings are those that griffe knows, or bold."""
    text = LITERAL.sub(lambda match: ":\n\n" + _fence(match["body"].rstrip("\n"), "text") + "\n\n", f"{text}\n")
    text = HEADING.sub(_section, text)
    return DOCTEST.sub(lambda match: _fence(match[0], "pycon"), text).rstrip()


def _fence(code: str, language: str) -> str:
    code = textwrap.dedent(code)
    return f"```{language}\n{code}\n```"


def _section(match: re.Match[str]) -> str:
    title, body = match["title"], match["body"]
    if title == "Key init args":  # the fields, then a text that is about all of them
        fields, _, rest = body.partition("\n\n")
        return f"Args:\n{fields}\n\n{textwrap.dedent(rest)}"
    if title in SECTIONS:
        return match[0]
    return f"**{title}**\n\n{textwrap.dedent(body)}"


class Docstrings(griffe.Extension):
    """Prepare docstrings and classes for mkdocstrings."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Rewrite the docstrings of a package, and give its Pydantic classes a signature."""
        for thing in list(_walk(pkg)):
            if isinstance(thing, griffe.Function) and _is_validator(thing) and thing.parent:
                thing.parent.del_member(thing.name)
                continue
            if thing.docstring:
                thing.docstring.value = markdown(thing.docstring.value)
            if isinstance(thing, griffe.Attribute) and not thing.docstring and (text := _description(thing)):
                thing.docstring = griffe.Docstring(text, parent=thing)
        for thing in _walk(pkg):
            if isinstance(thing, griffe.Class) and thing.docstring and "__init__" not in thing.all_members:
                _add_signature(thing)


def _walk(thing: Any) -> Iterator[Any]:
    yield thing
    for member in list(thing.members.values()):
        if not member.is_alias:
            yield from _walk(member)


def _field(attribute: griffe.Attribute, keyword: str) -> Any:
    """Return a keyword argument of ``Field(...)``, the value of an attribute."""
    value = attribute.value
    if isinstance(value, griffe.ExprCall) and str(value.function).endswith("Field"):
        for argument in value.arguments:
            if isinstance(argument, griffe.ExprKeyword) and argument.name == keyword:
                return argument.value
    return None


def _description(attribute: griffe.Attribute) -> str | None:
    text = _field(attribute, "description")
    return str(text).strip("\"'") if text is not None and str(text)[:1] in "\"'" else None


def _add_signature(cls: griffe.Class) -> None:
    sections = cls.docstring.parse("google", warnings=False) if cls.docstring else []
    names = [
        one.name
        for section in sections
        if isinstance(section, griffe.DocstringSectionParameters)
        for one in section.value
    ]
    if not names:
        return
    parameters = [griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)]
    for name in names:
        field = _attribute(cls, name)
        annotation = _without_validators(field.annotation) if field else None
        default: Any = "..."  # of a field that the framework's class declares
        if field is not None:
            default = _field(field, "default") if isinstance(field.value, griffe.ExprCall) else field.value
        kind = griffe.ParameterKind.keyword_only
        parameters.append(griffe.Parameter(name, annotation=annotation, default=default, kind=kind))
    init = griffe.Function("__init__", parameters=griffe.Parameters(*parameters), parent=cls)
    cls.set_member("__init__", init)


def _without_validators(annotation: Any) -> Any:
    """Return ``X`` of ``Annotated[X, ...]``."""
    if isinstance(annotation, griffe.ExprSubscript) and str(annotation.left) == "Annotated":
        return next(iter(annotation.slice.elements)) if isinstance(annotation.slice, griffe.ExprTuple) else annotation
    return annotation


def _is_validator(thing: Any) -> bool:
    """Return whether Pydantic calls a function: it is public only because it overrides the framework's."""
    return any("validator" in str(decorator.value) for decorator in getattr(thing, "decorators", ()))


def _attribute(cls: griffe.Class, name: str) -> griffe.Attribute | None:
    for owner in [cls, *cls.mro()]:
        member = owner.members.get(name)
        if isinstance(member, griffe.Attribute):
            return member
    return None
