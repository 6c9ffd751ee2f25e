"""What fits, printed before the load: the launch's own layout on the GPUs that it has."""

from collections.abc import Sequence

from raylaunch.base import console
from raylaunch.base.errors import ChecksFailedError, WeightsError
from raylaunch.config.launch import LaunchConfig
from raylaunch.plan.forecast import make_model
from raylaunch.plan.gpus import make_fleet
from raylaunch.plan.history import Forecast, make_forecast
from raylaunch.plan.layout import Planner
from raylaunch.plan.settings import read_settings
from raylaunch.weights.model_files import read_folder


def forecast_launch(launch: LaunchConfig, nodes: Sequence[Sequence[tuple[str, int]]]) -> Forecast | None:
    """Print and return the forecast; None where the GPUs or the model's config.json are not known here.

    Args:
        nodes: name and bytes of each GPU, by node.

    Raises:
        ChecksFailedError: the launch surely cannot fit, and keep.force is not set.
    """
    if not any(nodes) or not (launch.model_folder / "config.json").is_file():
        return None
    settings = read_settings(launch)
    try:
        files = read_folder(launch.model_folder)
        tensors = [(tensor.name, tensor.kind, tensor.size) for tensor in files.tensors]
        planner = Planner(make_model(files.config, tensors, settings, files.where), make_fleet(nodes), settings)
        layout = planner.plan(launch.tensor_parallel_size, launch.pipeline_parallel_size, is_named=True)
        known = make_forecast(planner, layout, launch.model.repo or str(launch.model_folder))
    except WeightsError as error:
        console.say(f"no plan: {error.what}")
        return None
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a forecast must not keep a model down
        console.say(f"no plan: this config.json is not understood ({type(error).__name__}: {error})")
        return None
    for warning in layout.warnings:
        console.say(f"plan: {warning}", style="yellow")
    if layout.fits:
        console.say(known.describe())
        return known
    if not launch.keep.force:
        raise ChecksFailedError(
            f"it cannot fit: {'; '.join(layout.refusals)}",
            fix="`raylaunch plan` shows what fits; --force starts it anyway",
        )
    console.say(f"plan: it cannot fit: {layout.refusals[0]}; --force was given", style="yellow")
    return known
