"""The optimizers, schedules, metrics and settings that a spec may name: declarations only, without torch."""

from __future__ import annotations

from recdsl.training.declare import Declaration, Option

LR = Option("lr", "float", 1e-3, "learning rate", above=0.0)
EPS = Option("eps", "float", 1e-8, "added to the denominator", above=0.0)
DECAY = Option("weight_decay", "float", 0.0, "pull of the weights to zero", low=0.0)
MOMENTUM = Option("momentum", "float", 0.0, "share of the previous step that is repeated", low=0.0, high=1.0)
BETAS = Option(
    "betas", "pair", (0.9, 0.999), "decay of the averages of gradient and squared gradient", low=0.0, high=1.0
)
LR_SGD = Option("lr", "float", 1e-2, "learning rate", above=0.0)

OPTIMIZERS = (
    Declaration("adam", "Adam (Kingma & Ba 2015); weight_decay is an L2 penalty", (LR, BETAS, EPS, DECAY)),
    Declaration(
        "adamw",
        "Adam with decoupled weight decay (Loshchilov & Hutter 2019)",
        (LR, BETAS, EPS, Option("weight_decay", "float", 1e-2, DECAY.doc, low=0.0)),
    ),
    Declaration(
        "sgd",
        "stochastic gradient descent",
        (LR_SGD, MOMENTUM, Option("nesterov", "bool", False, "look ahead (needs momentum)"), DECAY),
    ),
    Declaration(
        "momentum",
        "stochastic gradient descent with momentum (Polyak 1964)",
        (
            LR_SGD,
            Option("momentum", "float", 0.9, MOMENTUM.doc, low=0.0, high=1.0),
            Option("nesterov", "bool", False, "look ahead"),
            DECAY,
        ),
    ),
    Declaration(
        "rmsprop",
        "RMSprop (Hinton)",
        (
            LR_SGD,
            Option("alpha", "float", 0.99, "decay of the squared gradient", low=0.0, high=1.0),
            EPS,
            MOMENTUM,
            DECAY,
        ),
    ),
    Declaration("adagrad", "Adagrad (Duchi et al. 2011)", (LR_SGD, EPS, DECAY)),
    Declaration("adamax", "Adam with the infinity norm", (LR, BETAS, EPS, DECAY)),
    Declaration("nadam", "Adam with Nesterov momentum", (LR, BETAS, EPS, DECAY)),
    Declaration("radam", "rectified Adam (Liu et al. 2020)", (LR, BETAS, EPS, DECAY)),
    Declaration(
        "td_lambda",
        "temporal differences with eligibility traces (Sutton 1988), for `td` losses",
        (
            LR,
            Option("trace", "float", 0.0, "lambda: how slowly traces decay", low=0.0, high=1.0),
            Option("normalise", "bool", False, "divide each update by the root of its running mean square"),
            Option("keep", "float", 0.9999, "how much of that mean stays at an update", low=0.0, high=1.0),
            Option("initial", "float", 0.0, "where that mean begins; 0: it is of the updates so far", low=0.0),
        ),
    ),
    Declaration(
        "idbd",
        "a step size for each parameter, learned online (Sutton 1992); one stream, one `td` or `mse` loss",
        (
            Option("lr", "float", 1e-3, "the first step size of each parameter", above=0.0),
            Option("meta", "float", 1e-2, "rate at which step sizes are learned", low=0.0),
        ),
    ),
)

WARMUP = Option("warmup", "int", 0, "steps over which the rate first rises from zero", low=0)
SCHEDULES = (
    Declaration("constant", "the learning rate as given", (WARMUP,)),
    Declaration(
        "linear",
        "falls in a line to `end` times the rate",
        (Option("end", "float", 0.0, "last factor", low=0.0), WARMUP),
    ),
    Declaration(
        "cosine",
        "falls along a cosine to `end` times the rate",
        (Option("end", "float", 0.0, "last factor", low=0.0), WARMUP),
    ),
    Declaration(
        "step",
        "multiplied by `factor` every `every` steps",
        (
            Option("every", "int", "<required>", "steps between falls", low=1),
            Option("factor", "float", 0.1, "what the rate is multiplied by", above=0.0),
            WARMUP,
        ),
    ),
    Declaration(
        "warmup",
        "rises from zero over `steps` steps, then constant",
        (Option("steps", "int", "<required>", "steps", low=1),),
    ),
)

OUTPUT = Option("output", "word", None, "the output (default: the one in the first loss that fits)", none=True)
TARGET = Option("target", "word", None, "the target it is compared with", none=True)
LAST = Option(
    "last",
    "int",
    None,
    "count only each sample's last so many valid steps (1 where the loss is `at: last`)",
    low=1,
    none=True,
)
METRICS = (
    Declaration("accuracy", "share of steps whose largest entry is at the target", (OUTPUT, TARGET, LAST)),
    Declaration("bits", "bits a symbol: -log2 of the probability of the target", (OUTPUT, TARGET, LAST)),
    Declaration("mse", "mean squared difference", (OUTPUT, TARGET, LAST)),
    Declaration("mae", "mean absolute difference", (OUTPUT, TARGET, LAST)),
)

NUMBERS = (
    Option("batch", "int", 32, "sequences of a batch", low=1, high=10_000_000),
    Option("steps", "int", 1_000, "updates", low=1),
    Option(
        "clip", "float", None, "largest norm of the whole gradient; larger ones are scaled down", above=0.0, none=True
    ),
    Option("seed", "int", 0, "of parameters, data and noise", low=0, high=2**63 - 1),
    Option("stream", "bool", False, "carry the state from each batch to the next (data in order, for tbptt)"),
    Option("online", "bool", False, "learn from a stream, every few observations; implies `stream`"),
    Option("every", "int", 1, "online: observations between updates", low=1, high=1_000_000),
    Option("recent", "int", 10_000, "online: updates whose mean loss and metrics are the online error", low=1),
    Option(
        "evaluate",
        "int",
        500,
        "steps between evaluations on the validation data; 0: only at the end (online: none unless it is given)",
        low=0,
    ),
    Option("evaluation_batches", "int", 20, "batches of an evaluation (at most one pass of the data)", low=1),
    Option("log", "int", 50, "steps between lines of metrics", low=1),
    Option("checkpoint", "int", 500, "steps between checkpoints; 0: only at the end and on interruption", low=0),
    Option("keep", "int", 3, "checkpoints that are kept", low=1),
    Option("threads", "int", None, "threads of torch (default: torch's own choice)", low=1, high=4096, none=True),
    Option("device", "word", "cpu", "where to train", choices=("cpu", "cuda", "auto")),
    Option("dtype", "word", "float32", "of parameters and states", choices=("float32", "float64")),
    Option(
        "backend",
        "word",
        "auto",
        "what runs the loops; auto: native (compiled C) where that pays, else torch",
        choices=("auto", "native", "torch"),
    ),
)
"""Plain settings of `train:`; `optimizer`, `schedule` and `metrics` are calls."""

STAGE = Declaration(
    "train",
    "parameters that are trained for a part of the run, and constant before and after",
    (
        Option("parameters", "text", "<required>", 'a selector, such as "late.*"'),
        Option("start", "int", 0, "the first update that trains them", low=0),
        Option("until", "int", None, "the first update that no longer does", low=1, none=True),
    ),
)

CALLS = {"optimizer": ("adam(lr=1e-3)", OPTIMIZERS), "schedule": ("cosine(warmup=100)", SCHEDULES)}
ONLINE = ("every", "recent")
"""Settings that mean nothing without `online: true`."""
SETTINGS = (*(option.name for option in NUMBERS), *CALLS, "lr", "metrics", "stages")
