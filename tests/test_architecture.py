"""The layout of docs/architecture.md: imports point downward, never in a circle."""

import ast
from pathlib import Path

import maskweave

ROOT = Path(maskweave.__file__).parent

# From the bottom up. A module imports from the layers below its own and from its own package,
# never from a sibling.
LAYERS = [
    {"errors", "progress", "png"},
    {"attention", "backends", "files", "formats", "metadata"}
    | {"seeds", "settings", "drawing", "guide", "models"},
    {"depth", "jpeg", "tones", "tars"},
    {"schedules", "orders", "holes", "images", "legacy"},
    {"masks", "writing", "soften"},
    {"tokenizer", "transformer", "data"},
    {"foreign"},
    {"maskgit", "checkpoint"},
    {"call", "convert", "domain", "fill", "levels", "windows", "crops"},
    {"walk", "classical", "tracing"},
    {"batches", "graphs", "reading"},
    {"pipeline"},
    {"training", "evaluation", "export", "recall"},
    {"manifest"},
    {"presets", "ray", "report", "web"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# What may import the package itself: the command line asks it for its version.
ROOT_IMPORTERS = {"cli.main", "cli.web"}

# What these modules must not reach, not even through others.
NETWORKS = {"tokenizer", "transformer", "checkpoint", "pipeline"}
IGNORANT = {"maskgit": NETWORKS, "walk": NETWORKS | {"maskgit", "fill"}, "training.loop": NETWORKS}


def modules() -> dict[str, Path]:
    """Return every module by its dotted path below the package's root."""
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file
        for file in sorted(ROOT.rglob("*.py"))
    }


def imports() -> list[tuple[str, str]]:
    """Return every edge between modules; the package itself is ``__init__``."""
    known = modules()
    edges = []
    for source, file in known.items():
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{source}: write imports in full, not relative to it"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.split(".")[0] == "maskweave":
                    edges.append((source, target_of(name.split(".")[1:], known)))
    return edges


def target_of(parts: list[str], known: dict[str, Path]) -> str:
    """Return the module that a dotted name is, or is defined in."""
    for end in range(len(parts), -1, -1):
        for candidate in (parts[:end], [*parts[:end], "__init__"]):
            if ".".join(candidate) in known:
                return ".".join(candidate)
    raise AssertionError(f"maskweave.{'.'.join(parts)} is imported and does not exist")


def graph() -> dict[str, set[str]]:
    """Return what each module imports, but for the package itself."""
    targets: dict[str, set[str]] = {module: set() for module in modules()}
    for source, target in imports():
        if target != "__init__":
            targets[source].add(target)
    return targets


def package(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def layer(module: str) -> int:
    name = package(module)
    assert name in LEVEL, (
        f"{name} has no layer: give it one in LAYERS, above all that it imports and below all that "
        "imports it, and in docs/architecture.md"
    )
    return LEVEL[name]


def test_every_module_has_a_layer() -> None:
    for module in modules():
        layer(module)
    assert LEVEL.keys() == {package(module) for module in modules()}


def test_imports_point_downward() -> None:
    upward = [
        f"{source} imports {target}"
        for source, targets in graph().items()
        for target in sorted(targets)
        if package(source) != package(target) and layer(source) <= layer(target)
    ]
    assert not upward, f"sideways or upward, see LAYERS: {'; '.join(upward)}"


def test_nothing_imports_the_package_root_but_for_its_version() -> None:
    importers = {source for source, target in imports() if target == "__init__"}
    assert importers <= ROOT_IMPORTERS, "import from the module that defines the name, if any does"


def test_no_circle() -> None:
    edges = graph()
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join([*path, module])}"
        if module not in done:
            for target in sorted(edges[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_decoding_and_geometry_know_no_network_and_the_loop_no_model() -> None:
    edges = graph()
    for module in IGNORANT.keys() & edges.keys():
        reached, new = {module}, {module}
        while new:
            new = {target for source in new for target in edges[source]} - reached
            reached |= new
        known = {target for target in reached if package(target) in IGNORANT[module]}
        assert not known, f"{module} reaches {sorted(known)}"
