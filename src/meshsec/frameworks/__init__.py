"""One file for each framework: what its users expect to hold in their hands. Import the one you use."""

__all__: list[str] = []
