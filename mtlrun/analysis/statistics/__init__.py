"""Pure statistics of few seeds: relative change, intervals, tests, ranks."""
