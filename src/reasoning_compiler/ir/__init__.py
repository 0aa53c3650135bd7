"""Reading TIR: blocks, affine accesses, loop nests, conditions. Whoever looks at a PrimFunc looks through this."""
