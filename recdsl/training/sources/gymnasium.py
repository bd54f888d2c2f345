"""Prediction on a Gymnasium environment under a fixed policy (needs the package: pip install 'recdsl[rl]').

Each row plays one episode after the other. Episode n of a row is a function of (seed, split, row, n): the environment
is reset with a seed of its own, and actions come from a generator of its own. So a run is resumed exactly wherever the
environment obeys its seed. An episode that is cut at `limit` steps ends there, as one that terminates does.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from recdsl.errors.runs import EnvironmentUnusable, PackageMissing, RunError
from recdsl.training.arrays import np
from recdsl.training.batches import Array, Place, Request, Source
from recdsl.training.declare import Declaration, Field, Option, Options
from recdsl.training.pieces import Pieces
from recdsl.training.trials import DISCOUNT, LENGTH

DECLARATION = Declaration(
    "gymnasium",
    "predict rewards of a Gymnasium environment under a fixed policy; an endless stream with resets",
    (
        Option("env", "text", "<required>", 'the name of the environment, such as "CartPole-v1"'),
        Option("policy", "word", "random", "which actions are taken", choices=("random", "constant")),
        Option("action", "int", 0, "the action of the constant policy", low=0),
        Option("limit", "int", 1_000, "steps after which an episode is ended", low=1, high=10_000_000),
        LENGTH,
        DISCOUNT,
    ),
)
GENERATED = False


def made(options: Options) -> Any:
    """The environment. Raises RD0714 without the package, RD0715 for a name or spaces that will not do."""
    try:
        gymnasium: Any = import_module("gymnasium")
    except ImportError:
        raise RunError(PackageMissing("gymnasium", "rl")) from None
    try:
        found = gymnasium.make(options["env"])
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(EnvironmentUnusable(options["env"], first[:200])) from error
    space = found.observation_space
    if not isinstance(space, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
        raise RunError(EnvironmentUnusable(options["env"], f"its observations are {type(space).__name__}"))
    return found


def observed(space: Any, observation: Any) -> Array:
    """An observation as a vector; one of finitely many is one-hot."""
    if hasattr(space, "n"):
        return np.eye(int(space.n), dtype=np.float32)[int(observation) - int(space.start)]
    return np.asarray(observation, np.float32).reshape(-1)


def episode(env: Any, rng: np.random.Generator, options: Options) -> dict[str, Array]:
    """Observations and the rewards that came with them (none with the first), until the episode ends."""
    seed = int(rng.integers(2**31))
    env.action_space.seed(int(rng.integers(2**31)))
    seen, rewards, over = [observed(env.observation_space, env.reset(seed=seed)[0])], [0.0], False
    while not over and len(seen) < options["limit"]:
        action = env.action_space.sample() if options["policy"] == "random" else options["action"]
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(observed(env.observation_space, observation))
        rewards.append(float(reward))
        over = bool(terminated or truncated)
    return {"x": np.stack(seen), "cumulant": np.array(rewards, np.float32)}


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` float[n] (the observation, flat), `cumulant` (the reward that came with it) and `return`."""
    space = made(options).observation_space
    width = int(space.n) if hasattr(space, "n") else int(np.prod(space.shape))

    def draw(request: Request) -> Pieces:
        env = cache(lambda: made(options))
        return Pieces(
            lambda rng: episode(env(), rng, options), request, options["length"], options["discount"], ends=True
        )

    fields = (
        Field("x", "float", "input", shape=(width,)),
        Field("cumulant", "float", "input"),
        Field("return", "float", "target"),
    )
    return Source(fields, draw, sizes={"obs": width}, continues=True)
