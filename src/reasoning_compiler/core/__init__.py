"""What every room stands on: records, errors, named random streams, statistics, the phase timer, process basics."""
