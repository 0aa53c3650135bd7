from __future__ import annotations

import random
import threading

import pytest

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.proposer.llm.budget import Budget, BudgetRefusal, Reservation, Spending
from reasoning_compiler.proposer.llm.prices import PriceList, Usage
from reasoning_compiler.proposer.llm.scrub import Scrubber

PRICED = PriceList("openai:fake", price="1/10")


def test_prices_come_from_the_maintained_list() -> None:
    pytest.importorskip("genai_prices")
    assert PriceList("openai:gpt-4o-mini").usd(Usage(1_000_000, 1_000_000)) == pytest.approx(0.75)
    cached = PriceList("openai:gpt-4o-mini").usd(Usage(1_000_000, 0, cached_tokens=1_000_000))
    assert cached == pytest.approx(0.075)
    assert "$0.15 in, $0.6 out" in str(PriceList("openai:gpt-4o-mini"))


@pytest.mark.parametrize("model", ["openai:no-such-model", "ollama:llama3.1:8b", "gpt-4o-mini", "nobody:x"])
def test_unknown_prices_are_unknown_and_never_zero(model: str) -> None:
    prices = PriceList(model)
    assert not prices.known and prices.usd(Usage(10, 10)) is None
    assert str(prices) == "price unknown"
    with pytest.raises(UsageError, match="--price IN/OUT"):
        Budget(max_usd=1.0).check_priced(prices, model)
    Budget(max_calls=1).check_priced(prices, model)


def test_another_server_does_not_have_the_providers_prices() -> None:
    assert not PriceList("openai:gpt-4o-mini", base_url="http://localhost:8000/v1").known


def test_the_users_price_holds() -> None:
    prices = PriceList("ollama:x", price="0.5/2")
    assert prices.known and prices.usd(Usage(1_000_000, 500_000)) == pytest.approx(1.5)
    assert PriceList("ollama:x", price="0/0").usd(Usage(10, 10)) == 0


@pytest.mark.parametrize("text", ["", "1", "1/2/3", "a/b", "-1/2", "nan/1", "inf/1"])
def test_bad_prices_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--price"):
        PriceList("ollama:x", price=text)


@pytest.mark.parametrize("limit", [{"max_calls": 0}, {"max_tokens": -5}, {"max_usd": 0.0}, {"max_usd": float("nan")}])
def test_limits_must_be_positive(limit: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be above 0"):
        Budget(**limit)


def test_without_limits_everything_is_allowed() -> None:
    reservation = Budget().reserve(10**9, 5000, PriceList("ollama:x"))
    assert isinstance(reservation, Reservation) and reservation.max_output_tokens == 5000


def test_an_answer_is_limited_to_what_can_be_paid() -> None:
    assert Budget(max_tokens=5000).reserve(4000, 8000, PRICED).max_output_tokens == 1000
    # 1,000 prompt tokens cost $0.001, the other $0.009 pay for 900 tokens of answer.
    assert Budget(max_usd=0.01).reserve(1000, 8000, PRICED).max_output_tokens == 900


def test_what_calls_under_way_hold_is_not_the_end() -> None:
    budget = Budget(max_calls=1)
    first = budget.reserve(10, 100, PRICED)
    refusal = budget.reserve(10, 100, PRICED)
    assert isinstance(refusal, BudgetRefusal) and not refusal.ended
    first.settle(Spending())
    second = budget.reserve(10, 100, PRICED)
    second.settle(Spending.of_call(Usage(10, 5), 0.1))
    refusal = budget.reserve(10, 100, PRICED)
    assert refusal.ended and "1 calls is used up" in refusal.why
    assert (budget.spent.calls, budget.spent.tokens, budget.spent.usd) == (1, 15, 0.1)


def test_calls_without_a_price_are_counted() -> None:
    budget = Budget()
    budget.reserve(10, 100, PriceList("ollama:x")).settle(Spending.of_call(Usage(10, 5), None))
    assert (budget.spent.usd, budget.spent.unpriced_calls) == (0.0, 1)


@pytest.mark.parametrize("limits", [{"max_calls": 17}, {"max_tokens": 20_000}, {"max_usd": 0.05}])
def test_limits_hold_with_many_threads(limits: dict[str, float]) -> None:
    budget = Budget(**limits)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            prompt = rng.randint(1, 500)
            reservation = budget.reserve(prompt, 1000, PRICED)
            if isinstance(reservation, BudgetRefusal):
                continue
            if rng.random() < 0.2:
                reservation.settle(Spending())
                continue
            usage = Usage(prompt, rng.randint(0, reservation.max_output_tokens))
            reservation.settle(Spending.of_call(usage, PRICED.usd(usage)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = budget.spent
    assert spent.calls <= limits.get("max_calls", 10**9) and spent.tokens <= limits.get("max_tokens", 10**9)
    assert spent.usd <= limits.get("max_usd", 10**9) + 1e-9
    assert spent.calls > 3


def test_scrubbing_hides_keys_of_the_environment_and_what_looks_like_one() -> None:
    environ = {"A_KEY": "abcdefgh-1", "A_TOKEN": "abcdefgh-1-longer", "N_TOKENS": "123456789", "HOME": "/home/me"}
    scrubber = Scrubber(environ)
    for text, shown in {
        "abcdefgh-1-longer abcdefgh-1": "[key] [key]",
        "123456789 /home/me": "123456789 /home/me",
        "sk-aaaaaaaaaaaaaaaa task-aaaaaaaaaaaaaaaa": "[key] task-aaaaaaaaaaaaaaaa",
        "https://me:pass@host/v1": "https://[key]@host/v1",
        "Authorization: Bearer abc.def-ghi": "Authorization: Bearer [key]",
    }.items():
        assert scrubber.scrub(text) == shown
    assert "abcdefgh" not in repr(scrubber)
