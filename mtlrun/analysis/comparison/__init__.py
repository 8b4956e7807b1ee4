"""``mtlrun compare``: from runs to tables, tests and a finding in words."""
