"""The asyncio side of a node: it carries out what the machines decide and reports back what happened."""
