"""What a program costs on a machine, without running it: register tile, cache traffic, parallel grain, roofline."""
