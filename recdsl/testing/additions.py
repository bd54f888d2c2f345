"""What a random model gets as text on top of its graph: memories, cells, normalisers, kept states, masks of weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recdsl.testing.draws import Draws
from recdsl.testing.models import Model

SECTION = re.compile(r"^(\w+):", re.MULTILINE)
CELLS = ("lru", "gru", "gru_reset_after", "elman", "indrnn", "lstm_columns", "peephole_lstm")
SCORES = ("dot", "dot", "cosine(sharpness=2)", "inverse_distance(delta=0.1)", "mlp(2)", "separable")
REUSED = ("oldest", "oldest", "least_used", "least_used(decay=0.5)")
WIDE = ("elman", "gru", "lstm")
MATRIX = re.compile(r"  \w+: float\[(\w+), (\w+)\] ~ normal\(0\.0, 0\.7\)")
USES = ("stop", "through", "through(query=stop)", "through(key=stop)", "stop(query=stop)")


@dataclass
class Draft:
    """A spec in sections. vectors: its assigned names that are vectors, with their axes; states: the carried ones."""

    sections: dict[str, list[str]]
    vectors: dict[str, str]
    states: tuple[str, ...]
    credit: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        return "\n".join("\n".join(lines) for lines in self.sections.values()) + "\n"

    def add(self, section: str, line: str, head: str = "") -> None:
        self.sections.setdefault(section, [head or f"{section}:"]).append(f"  {line}")

    def matrix(self, out: str, inner: str) -> str:
        """A new parameter."""
        name = f"m{sum(len(lines) for lines in self.sections.values())}"
        self.add("params", f"{name}: float[{out}, {inner}] ~ normal(0.0, 0.7)")
        return name

    def join(self, name: str, value: str, axis: str) -> None:
        """Have the equation of `name` add a matrix times a vector; inside of the tanh that bounds a state."""
        lines = self.sections["step"]
        at = next(k for k, line in enumerate(lines) if line.startswith(f"  {name} = "))
        old = lines[at].removeprefix(f"  {name} = ")
        term = f"{self.matrix(self.vectors[name], axis)} @ {value}"
        bounded = name in self.states and old.startswith("tanh(")
        lines[at] = f"  {name} = tanh({old[4:]} + {term})" if bounded else f"  {name} = {old} + {term}"


def draft(model: Model) -> Draft:
    """The model's text without its credit."""
    places = [(found.start(), found[1]) for found in SECTION.finditer(model.text)]
    ends = [start for start, _ in places[1:]] + [len(model.text)]
    sections = {
        name: model.text[start:end].rstrip("\n").split("\n") for (start, name), end in zip(places, ends, strict=True)
    }
    sections.pop("credit", None)
    types = {name: model.graph.nodes[node].type for name, node in model.graph.outputs}
    vectors = {name: type.axes[0].name for name, type in types.items() if len(type.axes) == 1}
    declared = [line.split(":")[0].strip() for line in sections.get("states", ["", ""])[1:]]
    return Draft(sections, vectors, tuple(declared))


def added(draws: Draws, model: Model) -> Draft:
    """The model with some of all that; as it is in a third of all cases."""
    made = draft(model)
    entering = next(i.type.axes[0].name for i in model.graph.inputs if i.name == "x")
    readouts = [name for name in made.vectors if name not in made.states]
    if not readouts or draws.chance(33):
        return made
    sites = [*readouts, *(name for name in made.states if name in made.vectors)]
    if draws.chance(60):
        _memory(draws, made, entering, draws.choose(sites))
    if draws.chance(30):
        _cell(draws, made, entering, draws.choose(sites))
    if draws.chance(30):
        _normaliser(draws, made, entering, draws.choose(sites))
    if draws.chance(30):
        _kept(draws, made)
    if draws.chance(50):
        _larger(draws, made)
    if draws.chance(15):
        _wide(draws, made, draws.choose(sites))
    if draws.chance(40):
        _masks(draws, made)
    return made


def _memory(draws: Draws, made: Draft, entering: str, site: str) -> None:
    """Slots, or a tape; what is written is a vector of the step, what asks is not computed from what is read."""
    value, axis = draws.choose([*made.vectors.items(), ("x", entering)])
    keyed = draws.chance(50)
    inner = draws.choose([axis, entering]) if keyed else axis
    tape = draws.chance(40)
    write = [f"value: {value}"] + ([f'key: "{made.matrix(inner, axis)} @ {value}"'] if keyed else [])
    write += [f"every: {draws.between(2, 3)}"] if draws.chance(30) else []
    write += [f'when: "x[{entering}=0] > 0"'] if draws.chance(20) else []
    select = f"topk({draws.between(1, 3)})" if tape or draws.chance(50) else draws.choose(("all", "threshold(0.1)"))
    normalise = draws.choose(("softmax", "shifted_relu"))
    query = f"{made.matrix(inner, entering)} @ x"
    past = [name for name in made.states if made.vectors.get(name) == inner]
    query += f" + {draws.choose(past)}[t-1]" if past and draws.chance(40) else ""
    read = [f'query: "{query}"', f"score: {draws.choose(SCORES)}", f"select: {select}", f"normalise: {normalise}"]
    made.add("memory", "past:")
    made.add("memory", f"  slots: {'unbounded' if tape else draws.between(1, 3)}")
    made.add("memory", f"  life: {draws.choose(('sequence', 'stream')) if not tape else 'sequence'}")
    made.add("memory", f"  evict: {'oldest' if tape else draws.choose(REUSED)}")
    made.add("memory", f"  write: {{{', '.join(write)}}}")
    made.add("memory", f"  read: {{{', '.join(read)}}}")
    made.join(site, "past.read", axis)
    if draws.chance(40):
        made.credit = (*made.credit, ("past", draws.choose(USES)))


def _cell(draws: Draws, made: Draft, entering: str, site: str) -> None:
    size = draws.choose(sorted({*made.vectors.values(), entering}))
    cell = draws.choose(CELLS)
    read = entering if cell == "lru" else size
    made.add("step", f"cell = {cell}(x, size={size})")
    made.join(site, "cell", read)


def _normaliser(draws: Draws, made: Draft, entering: str, site: str) -> None:
    past = [(f"{name}[t-1]", made.vectors[name]) for name in made.states if name in made.vectors]
    value, axis = draws.choose([("x", entering), *past])
    made.add("step", f"flat = normalise({value}, rate={draws.choose((0.5, 0.9))})")
    made.join(site, "flat", axis)


def _kept(draws: Draws, made: Draft) -> None:
    lines = made.sections.get("states", [])
    for k in range(1, len(lines)):
        if draws.chance(50):
            lines[k] += " kept"


def _larger(draws: Draws, made: Draft) -> None:
    """More entries, which cost next to nothing: each size is a few larger."""
    line = made.sections["sizes"][0]
    made.sections["sizes"][0] = re.sub(r"\d+", lambda size: str(int(size[0]) + draws.between(3, 6)), line)


def _wide(draws: Draws, made: Draft, site: str) -> None:
    """A layer whose influence is dense, and large enough to be carried from window to window."""
    made.sections["sizes"][0] = made.sections["sizes"][0].replace("{", f"{{wide: {draws.between(4, 12)}, ", 1)
    made.add("step", f"dense = {draws.choose(WIDE)}(x, size=wide)")
    made.join(site, "dense", "wide")


def _masks(draws: Draws, made: Draft) -> None:
    """Weights that are absent."""
    sizes = dict(re.findall(r"(\w+): (\d+)", made.sections["sizes"][0]))
    lines = made.sections["params"]
    for k, line in enumerate(lines):
        found = MATRIX.fullmatch(line)
        if found is not None and draws.chance(50):
            even = all(int(sizes.get(axis, 1)) % 2 == 0 for axis in found.groups())
            lines[k] = line + (" blocks(2)" if even and draws.chance(50) else f" sparse({draws.choose((0.4, 0.7))})")
