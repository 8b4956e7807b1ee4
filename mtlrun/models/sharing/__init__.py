"""What architectures are made of: walks through stages, experts, units, attention, policies."""
