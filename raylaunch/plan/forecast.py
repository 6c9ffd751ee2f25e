"""The forecast of one launch: what `serve` prints before the load, and compares with what vLLM then takes."""

from collections.abc import Iterable

from pydantic import JsonValue

from raylaunch.base.errors import WeightsError
from raylaunch.plan.settings import PlanSettings, measure_element
from raylaunch.plan.shape import need_config, read_shape
from raylaunch.plan.weights import Tensor, WeightModel, summarize_checkpoint


def make_model(
    config: JsonValue, tensors: Iterable[tuple[str, str, int]], settings: PlanSettings, where: str
) -> WeightModel:
    """A model's weights, from its config.json and the tensors of its safetensors headers (name, dtype, bytes).

    Raises:
        WeightsError: config.json lacks a size that is needed, or has fields that are not what their names say.
    """
    try:
        shape = read_shape(need_config(config, where), settings.quantization)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise WeightsError(
            f"the config.json of {where} is not understood ({type(error).__name__}: {error})",
            fix="plan without this model's figures is not possible; `raylaunch serve` starts it all the same",
        ) from None
    stored = [Tensor(*tensor) for tensor in tensors]
    checkpoint = summarize_checkpoint(stored) if stored else None
    return WeightModel(shape, checkpoint, measure_element(settings.choose_dtype(shape.dtype)))
