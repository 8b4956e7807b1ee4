"""``model.init_from``: the weights of a finished run."""

from pathlib import Path

from mtlrun.engine import checkpoint
from mtlrun.errors import UserError
from mtlrun.models.initial import take_weights
from mtlrun.models.model import MultiTaskModel
from mtlrun.tracking import folder as run_folder


def start_from(model: MultiTaskModel, source: str) -> str:
    """Fill a network with the weights of a finished run's best epoch.

    Args:
        model: the network.
        source: the run's folder.

    Returns:
        what was taken, in a sentence.

    Raises:
        UserError: there is no finished run, or it does not fit.
    """
    where = f"model.init_from={source}"
    folder = Path(source).expanduser()
    result = run_folder.finished(folder)
    best = folder / "checkpoints" / "best.pt"
    if result is None or not best.is_file():
        raise UserError(
            f"{where}: no finished run is there (its {run_folder.RESULT} and "
            f"checkpoints/{best.name} are looked for). Name the folder of one seed, such as "
            "outputs/default/digits/equal/seed=0."
        )
    state = checkpoint.read(best)["model"]
    try:
        taken, left = take_weights(model, state, list(result["tasks"]))
    except ValueError as error:
        raise UserError(f"{where}: {error}.") from error
    new = f"; new: {', '.join(left)}" if left else ""
    return f"Started from {source}: {', '.join(taken) or 'parts'}{new}."
