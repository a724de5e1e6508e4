"""Writes the reference pages that come from the code: `python docs/generate.py`. Tests hold the pages to it."""

import textwrap
from pathlib import Path

from pydantic import SecretStr

from jobs.settings import JobsSettings
from millrace.broker import acl, discovery, keys
from millrace.settings import CommonSettings, secret_variables, variables
from serving.settings import ServingSettings
from worker.settings import WorkerSettings

PAGE = Path(__file__).parent / "reference" / "settings.md"
REDIS_PAGE = Path(__file__).parent / "reference" / "redis-keys.md"


def settings_page() -> str:
    """The page of every setting of every program."""
    parts = [
        "# Settings\n\n"
        "Every setting is an environment variable; those that a program's command line takes too are in its `--help`.\n"
        "An unknown variable that begins with `MILLRACE_` is an error that names the nearest known one.\n"
        "A variable marked *or a file* can be given as `NAME_FILE` in place of `NAME`: the path of a file with the\n"
        "value, as Docker and Kubernetes mount secrets. Setting both is an error.\n"
    ]
    for title, program in (
        ("The API: `python -m serving`", ServingSettings),
        ("The worker: `python -m worker`", WorkerSettings),
        ("The jobs program: `python -m jobs`", JobsSettings),
    ):
        parts.append(f"\n## {title}\n\n| variable | default | what it does |\n| --- | --- | --- |\n")
        parts += [_row(program, name, field) for name, field in variables(program).items()]
    return "".join(parts)


def _row(program: type[CommonSettings], name: str, field: str) -> str:
    info = program.model_fields[field]
    default = info.default.get_secret_value() if isinstance(info.default, SecretStr) else info.default
    default = "" if info.default_factory else default
    note = " *Or a file.*" if f"{name}_FILE" in secret_variables(program) else ""
    return f"| `{name}` | `{default}` | {info.description}{note} |\n"


def redis_page(page: str) -> str:
    """The page about Redis, with the parts between its marks as the code has them."""
    keyspace = (keys.__doc__ or "").partition("    key ")[2].partition("\n\nA finished")[0]
    parts = {
        "keyspace": textwrap.dedent(f"    key {keyspace}"),
        "acl": "\n".join(f"ACL SETUSER {role} >PASSWORD {acl.rules(role)}" for role in acl.COMMANDS),
        "acl-cluster": " ".join(f"+{command}" for command in acl.CLUSTER_COMMANDS),
        "urls": textwrap.dedent((discovery.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]),
    }
    for name, text in parts.items():
        before, _, rest = page.partition(f"<!-- {name} -->\n")
        after = rest.partition("<!-- end -->")[2]
        page = f"{before}<!-- {name} -->\n```text\n{text}\n```\n<!-- end -->{after}"
    return page


if __name__ == "__main__":
    REDIS_PAGE.write_text(redis_page(REDIS_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    PAGE.write_text(settings_page(), encoding="utf-8")
