from __future__ import annotations

import json
from pathlib import Path

import pytest

from reasoning_compiler.core.errors import JournalError
from reasoning_compiler.core.programs import Transformation
from reasoning_compiler.proposer.llm.calls import Attempt, Message, prompt_hash
from reasoning_compiler.proposer.llm.prices import Usage
from reasoning_compiler.proposer.llm.scrub import Scrubber
from reasoning_compiler.proposer.llm.transcript import Exchange, Outcome, Transcript, read_transcript, spending

MESSAGES = (Message("system", "s"), Message("user", "ü\ud800"))
EDIT = Transformation((("a tile", (1, 2)), ("unroll", 16)), "faster")


def exchange(**kwargs) -> Exchange:
    fields = {
        "task": "", "node": 3, "program": "abc", "num": 2, "model": "openai:x", "prompt_version": "1",
        "prompt_hash": prompt_hash(MESSAGES), "messages": MESSAGES, "answer": "yes\n\u2028", "finish": "stop",
        "usage": Usage(10, 5), "usd": 0.01, "latency_secs": 1.5, "attempts": (Attempt("server", "500", 0.5),),
        "outcomes": (Outcome("what", EDIT, used=True), Outcome("no", None, "wrong_type", "cannot be")),
    }  # fmt: skip
    return Exchange(**(fields | kwargs))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    transcript = Transcript(path, scrubber=Scrubber({}))
    assert transcript.append(exchange(messages=MESSAGES[:1])) == 1
    failed = exchange(answer=None, finish="timeout", failure="no answer", usd=None, outcomes=(), repair_of=1)
    assert transcript.append(failed) == 2
    first, second = read_transcript(path)
    assert first == exchange(messages=MESSAGES[:1], id=1)
    assert second.finish == "timeout" and second.repair_of == 1 and second.usd is None
    for line in path.read_text().strip().split("\n"):
        assert json.loads(line)["v"] == 1


def test_a_torn_line_is_skipped_and_numbering_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    Transcript(path).append(exchange())
    with path.open("a") as file:
        file.write('{"v": 1, "type": "excha')
    resumed = Transcript(path)
    assert resumed.append(exchange(node=4)) == 2
    assert resumed.link("", 3, EDIT, 8, "key8") and resumed.link("", 4, EDIT, 9, "key9")
    assert not resumed.link("", 4, EDIT, 10, "key10")
    assert [(e.id, e.node, e.outcomes[0].node) for e in read_transcript(path)] == [(1, 3, 8), (2, 4, 9)]
    assert not Transcript(path).link("", 3, EDIT, 8, "key8")  # said already


@pytest.mark.parametrize(
    "line", ['{"v": 9, "type": "exchange"}', '{"v": 1, "type": "x"}', "[1]", '{"v": 1, "type": "exchange"}']
)
def test_another_file_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "transcript.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(JournalError, match="line 1"):
        read_transcript(path)


def test_files_that_cannot_be_written_or_found(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="could not be written"):
        Transcript(tmp_path / "no" / "transcript.jsonl").append(exchange())
    with pytest.raises(JournalError, match="cannot read"):
        read_transcript(tmp_path / "none")


def test_spending_counts_what_was_charged() -> None:
    unsent = exchange(answer=None, finish="server", usage=Usage())
    spent = spending([exchange(), unsent, exchange(usd=None)])
    assert (spent.calls, spent.tokens, spent.usd, spent.unpriced_calls) == (2, 30, 0.01, 1)
