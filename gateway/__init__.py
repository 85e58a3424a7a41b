"""The proxy: HTTP surface, relay, upstream client, simulator, commands. May import monitors."""
