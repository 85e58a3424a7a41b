"""What the guard costs, as ratios in one run: `make bench`, here and on main, to compare."""
