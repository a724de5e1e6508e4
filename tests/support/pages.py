"""Pages of the documentation as programs: their code is run, and must answer what the page says.

What a page says is read like this:

- `sh`: the block is a program of Bash. The output of a line that ends in `# prints: TEXT` must be TEXT. `curl` fails
  where the status of the answer does.
- `console`: each line behind `$ ` is a command, with the lines behind `> ` that follow it; its output must be the lines
  below, if there are any.
- `python`: the blocks of a page are one program. A line `expression  # LITERAL` must have that value, and a line
  `print(...)  # TEXT` must print it. Other comments are for the reader.
- `js`: a module for Node. The output of a line `console.log(...)  // TEXT` must be TEXT.

In a text, `…` or `...` stands for anything, and any white space equals any other; floats in values may differ by 0.001.
A block below `<!-- not run: REASON -->` is not run. `<!-- no code of this page is run: REASON -->` is for a whole page.
"""

import ast
import asyncio
import doctest
import inspect
import io
import math
import re
import subprocess
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FENCE = re.compile(
    r"^(?P<indent> *)(?:<!-- not run: (?P<reason>[^\n]*) -->\n\s*)?```(?P<language>\w+)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_WHOLE = re.compile(r"^<!-- no code of this page is run: (.*) -->$", re.MULTILINE)
_PRINTS = re.compile(r"^(?P<command>.*?)\s+# prints: (?P<text>.*)$")
_LOGS = re.compile(r"console\.log\(.*\);?\s+// (.*)$", re.MULTILINE)
_COMMAND = re.compile(r"^\$ (.*\n(?:> .*\n)*)((?:(?!\$ ).*\n?)*)", re.MULTILINE)
_SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_TOLERANCE = 1e-3
_TIMEOUT_S = 120
RUN_HERE = ("sh", "console", "python", "js")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code on a page, at a line; `reason` says why it is not run, and is "" where it is."""

    language: str
    code: str
    line: int
    reason: str


def blocks(text: str) -> list[Block]:
    """The blocks of code of a page, in order."""
    whole = _WHOLE.search(text)
    return [
        Block(
            language=found["language"],
            code=textwrap.dedent(found["code"]),
            line=text.count("\n", 0, found.start("code")),
            reason=found["reason"] or (whole[1] if whole else ""),
        )
        for found in _FENCE.finditer(text)
    ]


class Reader:
    """Runs the blocks of one page, one after another, in a folder.

    `ports` are what stands in the place of the addresses on the page. Commands find what `environment` says. Raises
    `AssertionError` for a block that fails, or answers otherwise than the page says.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], ports: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._ports = ports
        self._namespace: dict[str, Any] = {"__name__": "page"}

    def run(self, block: Block) -> None:
        """Run a block as what it is written in."""
        code = block.code
        for address, ours in self._ports.items():
            code = code.replace(address, ours)
        {"sh": self._shell, "console": self._console, "python": self._python, "js": self._js}[block.language](code)

    def _shell(self, code: str) -> None:
        """Variables that a block sets are there in the next."""
        expected: list[tuple[str, str]] = []
        lines = []
        for line in code.splitlines():
            if found := _PRINTS.match(line):
                lines.append(f"{{ {found['command']}; }} > {self._folder}/.printed-{len(expected)}")
                expected.append((found["command"], found["text"]))
            else:
                lines.append(line)
        state = self._folder / ".variables"
        strict = 'curl() { command curl --fail-with-body "$@"; }'
        script = "\n".join(
            ["set -aeo pipefail", strict, f"[ ! -e {state} ] || . {state}", *lines, f"export -p > {state}"]
        )
        self._bash(script)
        for number, (command, text) in enumerate(expected):
            check(command, (self._folder / f".printed-{number}").read_text(), text)

    def _console(self, code: str) -> None:
        for command, text in _COMMAND.findall(code):
            printed = self._bash(command.replace("\n> ", "\n"))
            if text.strip():
                check(command, printed, text)

    def _python(self, code: str) -> None:
        comments = _comments(code)
        tree = _Checks(comments).visit(ast.parse(code))
        program = compile(ast.fix_missing_locations(tree), "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        self._namespace |= {"_check_value": _check_value, "_check_print": _check_print}
        result = eval(program, self._namespace)
        if inspect.iscoroutine(result):
            asyncio.run(result)

    def _js(self, code: str) -> None:
        path = self._folder / "page.mjs"
        path.write_text(code)
        printed = self._bash(f"node {path}")
        check(code, printed, "\n".join(_LOGS.findall(code)))

    def _bash(self, script: str) -> str:
        run = subprocess.run(
            ["bash", "-c", script],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
        assert run.returncode == 0, f"{script}\nended with {run.returncode}:\n{run.stdout}{run.stderr}"
        return run.stdout


def check(what: str, printed: str, said: str) -> None:
    """Compare what was printed with what the page says. Raises `AssertionError`."""
    pattern = said.replace("…", "...").strip()
    met = doctest.OutputChecker().check_output(pattern, printed.strip(), _SAME)
    assert met, f"{what}\nprinted\n{printed}\nand the page says\n{said}"


def _comments(code: str) -> dict[int, str]:
    """The comment on each line that has one."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {token.start[0]: token.string[1:].strip() for token in tokens if token.type == tokenize.COMMENT}


class _Checks(ast.NodeTransformer):
    """Puts a comparison in the place of each expression with a comment that says its value."""

    def __init__(self, comments: Mapping[int, str]) -> None:
        self._comments = comments

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        said = self._comments.get(node.end_lineno or 0)
        if said is None:
            return node
        line = ast.unparse(node)
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name) and node.value.func.id == "print":
            arguments = ast.List(elts=node.value.args, ctx=ast.Load())
            return _call("_check_print", node, line, arguments, said)
        return _call("_check_value", node, line, node.value, said) if is_literal(said) else node


def is_literal(text: str) -> bool:
    """Whether a comment says a value, as opposed to something about it."""
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def _call(name: str, node: ast.Expr, line: str, value: ast.expr, said: str) -> ast.Expr:
    arguments = [ast.Constant(line), value, ast.Constant(said)]
    call = ast.Call(func=ast.Name(name, ctx=ast.Load()), args=arguments, keywords=[])
    return ast.copy_location(ast.Expr(call), node)


def _check_print(line: str, values: list[Any], said: str) -> None:
    check(line, " ".join(map(str, values)), said)


def _check_value(line: str, value: Any, said: str) -> None:
    assert is_close(value, ast.literal_eval(said)), f"{line}\nis {value!r}, and the page says {said}"


def is_close(value: Any, said: Any) -> bool:
    """Whether a value is what a page says; `...` at the end of a list stands for any more elements."""
    if isinstance(said, float):
        return math.isclose(value, said, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    if isinstance(said, list | tuple):
        elements = list(_elements(value))
        if said and said[-1] is ...:
            said, elements = said[:-1], elements[: len(said) - 1]
        return len(elements) == len(said) and all(map(is_close, elements, said))
    return bool(value == said)


def _elements(value: Any) -> Iterator[Any]:
    assert isinstance(value, list | tuple), f"{value!r} is no list"
    yield from value
