"""The web console of a node: one page at ``/`` that shows the whole cluster live, and what feeds it.

    page (HTML, CSS, modules: ``assets``) --EventSource--> ``streams`` <--news-- ``feed`` --looks, twice a second--> node
                                                                                   |
                             other nodes' ``/v1/cluster/rates`` (``figures``) <--asks, in turn--+

Only reading, and only while somebody looks: without an open stream nothing here runs. ``pictures`` decides what is shown
and what is new in it, ``rates`` turns counters into rates; both are pure.
"""
