"""The fault table: every way a stream can go wrong, over real sockets, one row each."""
