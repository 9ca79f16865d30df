"""The operator: makes the machines follow a ``Cluster`` resource, and tells the Raft leader what is wanted.

It is never in the path of a request: without it nodes detect, elect, fail over and serve as before.
"""
