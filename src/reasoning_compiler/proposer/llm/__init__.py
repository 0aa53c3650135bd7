"""A language model as a proposer: prompt, client, answer, budget, transcript."""
