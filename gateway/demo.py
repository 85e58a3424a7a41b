"""Placeholder while the demo is written."""


def demo() -> None:
    """Run the demo."""
