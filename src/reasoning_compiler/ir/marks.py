"""Annotations that our rules leave in a trace. A trace with them replays in plain TVM, too, which ignores them."""

NO_RULES = "schedule_rule"
"""MetaSchedule's own, on a block: with the value "None" its rules leave the block alone."""

SETTLED = "reasoning_compiler.settled"
"""On a loop: MetaSchedule's postprocessor leaves annotated loops as they are; it makes others parallel, or vectors."""

PADDED = "reasoning_compiler.padded"
"""On a block: its loops that have more iterations than there are results, as JSON: `[["i", 197, 198]]`."""

PACKED = "reasoning_compiler.packed"
"""On a block, with the value 1: it copies an operand in each call, into the order in which it is read."""

LAID_OUT_AHEAD = "meta_schedule.layout_rewrite_preproc"
"""MetaSchedule's own, on a block that copies a constant: the builder takes it out, and it runs once."""

SKIP_MASKED = "reasoning_compiler.skip_masked"
"""On a loop over blocks of keys: those that no row of its block of rows may see are skipped."""

VECTOR_MATH = "reasoning_compiler.vector_math"
"""On the root block, with the value 1: calls of the C library's functions become arithmetic."""

INDEPENDENT = "reasoning_compiler.independent_loops"
"""On the root block: 1 to run independent loops in parallel, 2 to make vectors of innermost ones as well, 0 for none;
and on each loop, or block with loops inside, that this is about: those that no rule of TVM's schedules."""
