"""One small and one full call to a real model: REASONC_LIVE_MODEL=openai:gpt-4o-mini pytest -m live."""

from __future__ import annotations

import os

import numpy as np
import pytest
from conv_context import ANALYSIS, KERNEL, MACHINE, conv_context

from reasoning_compiler.core.steps import Proposal
from reasoning_compiler.proposer.llm.client import LLMClient
from reasoning_compiler.proposer.llm.metered import MeteredModel
from reasoning_compiler.proposer.llm.node import ProgramFacts
from reasoning_compiler.proposer.llm.proposer import LLMProposer
from reasoning_compiler.proposer.llm.settings import LLMSettings
from reasoning_compiler.proposer.protocol import Context

MODEL = os.environ.get("REASONC_LIVE_MODEL", "")

pytestmark = [pytest.mark.live, pytest.mark.skipif(not MODEL, reason="REASONC_LIVE_MODEL is not set")]


class Nobody:
    name = "nobody"

    def propose(self, context: Context, num: int, rng: np.random.Generator) -> Proposal:
        return Proposal(self.name, "", ())


def test_a_real_model_proposes_valid_transformations() -> None:
    settings = LLMSettings(MODEL, base_url=os.environ.get("REASONC_LIVE_BASE_URL"))
    with LLMClient(settings) as client:
        client.check_connection()
        proposer = LLMProposer(
            MeteredModel(settings, client),
            kernel=KERNEL,
            machine=MACHINE,
            check=lambda program, transformation: None,
            fallback=Nobody(),
            facts=lambda program, table: ProgramFacts(ANALYSIS),
        )
        proposal = proposer.propose(conv_context(), 4, np.random.default_rng(0))
    assert proposal.transformations, proposer.model.stats
    assert proposal.reasoning
