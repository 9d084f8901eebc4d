"""Removal of links that leave a bundle from its documents."""

import re
from pathlib import Path, PurePosixPath

ELSEWHERE = " in the source repository"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_SCRIPT = re.compile(r"`[^`\n]*(?<![\w/])(?:\./)?(scripts/[\w/]+\.(?:py|sh))[^`\n]*`")


def keep_within(bundle: Path) -> None:
    """Replace links that leave the bundle by text, and mark scripts as the repository's; in place."""
    for path in sorted(bundle.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        text = _LINK.sub(lambda link, page=path: _kept_link(link, page, bundle), text)
        path.write_text(_SCRIPT.sub(lambda script: _placed_script(script, bundle), text), encoding="utf-8")


def _leads_somewhere(target: str, page: Path, bundle: Path) -> bool:
    if re.match(r"(https?:|mailto:|#)", target):
        return True
    path = (page.parent / target.split("#")[0]).resolve()
    return path.is_relative_to(bundle.resolve()) and path.exists()


def _kept_link(link: re.Match, page: Path, bundle: Path) -> str:
    image, text, target = link.groups()
    if _leads_somewhere(target, page, bundle):
        return link[0]
    return f"*{text}*" if image else text


def _placed_script(script: re.Match, bundle: Path) -> str:
    there = bundle.joinpath(*PurePosixPath(script[1]).parts).is_file()
    return script[0] if there else script[0] + ELSEWHERE
