"""A federation of thousands of agents in one process and in virtual time.

    scenario ─► fleet, links ─► engine ◄─► federation ─► outcome ─► table, picture, JSON

The product's own: folding, strategies, robust rules, server optimizers (`coordinator.aggregation`),
selection (`coordinator.selection`), clipping, rounding and the bytes of updates (`wire.tensors`,
`wire.sparse`, `agent.feedback`).  Not the product's: the task and its training (`fleet.py`,
`network.py`), which must take a third of a millisecond.  `docs/simulate.md` says what follows.
"""
