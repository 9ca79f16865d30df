"""One Ringkeep node: pure machines that decide, an asyncio runtime that acts, and an HTTP edge that translates."""
