"""`make demo`: real users' data on a three-node cluster, through the death of a node, every document counted."""
