"""What every part of Ringkeep must agree on: names, hashing, the shard map, wire format and errors.

Pure: no clock, no randomness and no input or output, so the same input gives the same answer on every machine.
"""
