"""The layout: imports point downward, never in a circle, never at the package root."""

import ast
from pathlib import Path

import maskweave

ROOT = Path(maskweave.__file__).parent

# From the bottom up. Within a layer nothing imports a sibling, but for modules of one package.
LAYERS = [
    {"errors", "progress"},
    {"files"},
    {"schedules", "holes", "images"},
    {"tokenizer", "transformer", "data", "crops"},
    {"maskgit", "checkpoint"},
    {"pipeline"},
    {"training", "evaluation", "convert"},
    {"presets"},
    {"cli", "web"},
    {"__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports() -> list[tuple[str, str]]:
    """Return every edge between modules of the package, as dotted paths below its root."""
    edges = []
    for file in sorted(ROOT.rglob("*.py")):
        source = file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{source}: relative import"
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            edges += [(source, name) for name in names if name.split(".")[0] == "maskweave"]
    return edges


def test_imports_point_downward() -> None:
    edges = imports()
    assert len(edges) > 80
    upward = []
    for source, target in edges:
        if target == "maskweave":
            continue
        above, below = source.split(".")[0], target.split(".")[1]
        if above != below and LEVEL[above] <= LEVEL[below]:
            upward.append((source, target))
    assert upward == []


def test_nothing_imports_the_package_root_but_for_its_version() -> None:
    assert [source for source, target in imports() if target == "maskweave"] == ["cli.main"]


def test_no_circle_within_a_package() -> None:
    graph: dict[str, set[str]] = {}
    for source, target in imports():
        graph.setdefault(source, set()).add(target.removeprefix("maskweave."))
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join([*path, module])}"
        if module not in done:
            for target in graph.get(module, set()):
                visit(target, (*path, module))
            done.add(module)

    for module in list(graph):
        visit(module, ())


def test_decode_knows_no_network_and_the_loop_no_model() -> None:
    maskgit = {target for source, target in imports() if source == "maskgit"}
    assert maskgit == {"maskweave.errors", "maskweave.schedules"}
    loop = {target for source, target in imports() if source == "training.loop"}
    known = {
        "errors",
        "files",
        "progress",
        "data.sampler",
        "training.checkpoints",
        "training.speed",
    }
    assert loop == {f"maskweave.{name}" for name in known}
