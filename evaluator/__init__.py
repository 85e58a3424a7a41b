"""Offline audits of guarded and unguarded endpoints, over HTTP as any client. Starts in part 5."""
