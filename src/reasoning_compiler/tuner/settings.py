"""What a run is told to do, and what it tells those who watch it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from reasoning_compiler.errors import UsageError
from reasoning_compiler.records import Step
from reasoning_compiler.search.search import SearchConfig

PROPOSERS = ("expert", "random")
PRESETS = ("default", "paper")


@dataclass(frozen=True)
class LLMSettings:
    """Which language model proposes, and what it may cost. Keys are not here: they stay in the environment.

    Args:
        model: provider and model, as "openai:gpt-4o-mini"; with `replay`, only a name.
        base_url: an OpenAI-compatible server.
        api_key_env: the environment variable that holds the key; the provider's usual one if None.
        replay: a run folder whose transcript answers instead of the model.
        context_depth: ancestors that the prompt tells of; the paper's default is two, parent and grandparent.
        max_calls: calls at most.
        budget_tokens: tokens at most, prompts and answers together.
        budget_usd: USD at most; needs a known price.
        price: "IN/OUT" in USD per million tokens, where the model's own is unknown.
        timeout_secs: of one call.
        concurrency: calls under way at once.
        children: transformations asked for in one call.
        expert_share: most of the measured programs that the expert may propose while the model thinks, in [0, 1).
        temperature: the model's own if None.
    """

    model: str
    base_url: str | None = None
    api_key_env: str | None = None
    replay: str | None = None
    context_depth: int = 2
    max_calls: int | None = None
    budget_tokens: int | None = None
    budget_usd: float | None = None
    price: str | None = None
    timeout_secs: float = 120.0
    concurrency: int = 4
    children: int = 4
    expert_share: float = 0.5
    temperature: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("context_depth", 0), ("concurrency", 1), ("children", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"`{name}` is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.expert_share < 1:
            raise UsageError(f"`expert_share` is {self.expert_share}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class Settings:
    """What a run is told to do.

    Args:
        samples: programs to measure, the untuned one not counted; ≥ 1.
        minutes: stop after this much time; None for no limit.
        patience: stop after this many samples in a row that brought nothing clearly faster; None for never.
        proposer: "expert" or "random"; with `llm`, who stands in for the model.
        llm: the language model that proposes; None for none.
        preset: "default", or "paper" for the paper's own method, which needs `llm`.
        seed: of every random draw.
        batch: programs measured between two looks at the tree; ≥ 1.
        threads: threads that a program may use; None for every physical core.
        target: the TVM target as JSON or by name; None for this machine's own.
        timeout_secs: the longest that one program may take in the runner.
        search: see `SearchConfig`.

    Raises:
        UsageError: a value is out of range; the text names it and what is allowed.
    """

    samples: int = 64
    minutes: float | None = None
    patience: int | None = None
    proposer: str = "expert"
    llm: LLMSettings | None = None
    preset: str = "default"
    seed: int = 0
    batch: int = 4
    threads: int | None = None
    target: str | None = None
    timeout_secs: float = 30.0
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        for name in ("samples", "batch", "patience", "threads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"`{name}` is {value!r}; it must be a whole number of at least 1")
        for name in ("minutes", "timeout_secs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"`{name}` is {value!r}; it must be above 0")
        if self.proposer not in PROPOSERS:
            raise UsageError(f"`proposer` is {self.proposer!r}; allowed: {', '.join(PROPOSERS)}, or replay:RUN")
        if self.preset not in PRESETS:
            raise UsageError(f"`preset` is {self.preset!r}; allowed: {', '.join(PRESETS)}")
        if self.preset == "paper" and self.llm is None:
            raise UsageError("`preset` paper needs a model: give `--llm PROVIDER:MODEL` or `--proposer replay:RUN`")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Settings:
        llm = LLMSettings(**obj["llm"]) if obj.get("llm") else None
        return cls(**(obj | {"search": SearchConfig(**obj["search"]), "llm": llm}))


Doing = Literal["starting", "untuned", "thinking", "measuring", "confirming", "saving", "done"]


@dataclass(frozen=True)
class Progress:
    """What a run tells those who watch it.

    Args:
        doing: what it is at.
        folder: the run folder.
        num_samples: programs measured so far.
        max_samples: of the run.
        untuned_secs: the untuned program's latency; None before it is known, or where it failed.
        best_secs: the best so far; None before there is one.
        last: the program measured last; None where this is about something else.
        improved: whether that one is the new best.
        notice: something that the user should know, said once; else empty.
        elapsed_secs: since the run began, pauses left out.
    """

    doing: Doing
    folder: str
    num_samples: int
    max_samples: int
    untuned_secs: float | None = None
    best_secs: float | None = None
    last: Step | None = None
    improved: bool = False
    notice: str = ""
    elapsed_secs: float = 0.0
