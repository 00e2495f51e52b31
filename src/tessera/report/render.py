"""HTML of the pages by the templates in `templates/`: one file each, with every text escaped."""

import json
from collections.abc import Mapping
from typing import Any

import tessera

_NAMED = 8  # files named for each reason


def render(template: str, page: Any) -> str:
    """Return the HTML that `template` makes of `page`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("tessera.report"), undefined=StrictUndefined, **options)
    return environment.get_template(template).render(page=page, version=tessera.__version__)


def json_text(data: Any) -> str:
    """Return JSON for people to read."""
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)


def group_rejects(rejects: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return {reason, count, names} of each reason in `rejects` (file -> reason), the most frequent first."""
    groups: dict[str, list[str]] = {}
    for name, reason in sorted(rejects.items()):
        groups.setdefault(reason, []).append(name)
    rows = []
    for reason, names in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        rows.append({"reason": reason, "count": len(names), "names": ", ".join(names[:_NAMED]) + more})
    return rows
