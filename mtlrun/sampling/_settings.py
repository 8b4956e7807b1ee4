"""Checks of settings that several samplers share."""


def check_temperature(setting: str, value: float) -> None:
    """Refuse a temperature that is not above 0; infinity draws all alike.

    Raises:
        ValueError: names the setting and the value.
    """
    if not value > 0:
        raise ValueError(
            f"{setting}={value}: must be above 0; 1 draws in proportion to the rows, .inf draws "
            "all alike"
        )
