"""The size of the package and its longest chain of imports.

    python -m tests.layout_report [FOLDER]

FOLDER is the folder of a package, by default `featuregen`. A chain is a module that imports a module that imports a
module, when it is itself imported: imports inside functions and those for type checkers alone do not count.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path


def import_graph(folder: Path) -> dict[str, set[str]]:
    """The modules of a package, and which of each other they import."""
    files = {_name(file, folder): file for file in folder.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        names = set(_imported(ast.parse(file.read_text(encoding="utf-8")), package))
        # `a.b.C` is a name in the module `a.b`, unless it is a module too.
        graph[module] = {name if name in files else name.rpartition(".")[0] for name in names} & files.keys() - {module}
    return graph


def _name(file: Path, folder: Path) -> str:
    return ".".join((folder.name, *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield from (".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names)
        elif not isinstance(node, ast.FunctionDef) and not _is_for_type_checkers(node):
            yield from _imported(node, package)


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """The longest path through the graph, which must be without circles."""
    chains: dict[str, list[str]] = {}
    for module in TopologicalSorter(graph).static_order():
        chains[module] = [module, *max((chains[below] for below in graph[module]), key=len, default=[])]
    return max(chains.values(), key=len)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "featuregen").resolve()
    lines = [len(file.read_text(encoding="utf-8").splitlines()) for file in folder.rglob("*.py")]
    chain = longest_chain(import_graph(folder))
    print(f"{len(lines)} files, {sum(lines)} lines, the longest file has {max(lines)}")
    print(f"{len(chain)} modules in the longest chain of imports: {' > '.join(chain)}")


if __name__ == "__main__":
    main()
