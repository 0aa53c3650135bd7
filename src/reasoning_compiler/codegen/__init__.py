"""Everything between a scheduled module and machine code."""
